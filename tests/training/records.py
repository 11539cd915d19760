"""Records of invented fits."""

import math
from datetime import UTC, datetime

from animora_training.pipeline.record import (
    EpochRecord,
    Host,
    ReliabilityBin,
    RunRecord,
    Software,
    TrainingData,
)


def run_record(**changes) -> RunRecord:
    """A fit that stopped three epochs after its best, the eleventh; with some fields changed."""
    fields = {
        "version": "20261123T204203Z-d4669f",
        "created_at": datetime(2026, 11, 23, 20, 42, 3, tzinfo=UTC),
        "parent": None,
        "seed": 7,
        "configuration": {
            "factors": 64,
            "mlp_embedding": 32,
            "hidden": [64, 32, 16],
            "negatives": 8,
            "learning_rate": 0.004,
            "weight_decay": 0.3,
            "embeddings": True,
            "max_epochs": 16,
            "patience": 3,
        },
        "data": TrainingData(
            start=datetime(2024, 4, 25, 23, 5, tzinfo=UTC),
            end=datetime(2026, 11, 22, 17, 49, tzinfo=UTC),
            users=6_040,
            posts=3_706,
            interactions=994_169,
            image_share=0.982,
            caption_share=0.713,
            judged_users=3_020,
        ),
        "epochs": (*sweeps(), *hold_out(), *refit()),
        "chosen_epoch": 11,
        "stopped": "early stopping",
        "qualities": {
            "NeuCF": {"hr@10": 0.7364, "ndcg@10": 0.4571, "mrr": 0.3721, "recall@20": 0.8493, "auc": 0.9374},
            "its MF initialisation": {"hr@10": 0.7311, "ndcg@10": 0.4533, "mrr": 0.3689, "auc": 0.9352},
            "EASE": {"hr@10": 0.7290, "ndcg@10": 0.4540, "mrr": 0.3701, "recall@20": 0.8402},
            "popularity": {"hr@10": 0.4541, "ndcg@10": 0.2544, "mrr": 0.2120, "recall@20": 0.6275},
            "heuristic": {"hr@10": 0.4489, "ndcg@10": 0.2512, "mrr": 0.2093, "recall@20": 0.6203},
        },
        "reliability": bins(),
        "software": Software(python="3.11.7", torch="2.13.0", animora="0.1.0"),
        "host": Host(cpus=8, device="NVIDIA H100 80GB HBM3"),
    }
    return RunRecord.model_validate({**fields, **changes})


def epoch(stage: str, number: int, **changes) -> EpochRecord:
    fields = {
        "stage": stage,
        "epoch": number,
        "loss": 0.2 + 0.16 * math.exp(-number / 4),
        "learning_rate": 0.004 * (1 - number / 16),
        "seconds": 8.4 + 0.1 * math.sin(number),
        "pairs_per_second": 1.06e6 + 1e4 * math.sin(number),
    }
    return EpochRecord.model_validate({**fields, **changes})


def sweeps() -> tuple[EpochRecord, ...]:
    return tuple(
        epoch(
            "factorisation", n, loss=None, learning_rate=None, hr10=0.73 - 0.3 / n, ndcg10=0.4525 - 0.2 / n**3
        )
        for n in range(1, 11)
    )


def hold_out() -> tuple[EpochRecord, ...]:
    return tuple(
        epoch("hold-out", n, hr10=0.737 - 0.0003 * (n - 11) ** 2, ndcg10=0.4574 - 0.00006 * (n - 11) ** 2)
        for n in range(1, 15)
    )


def refit() -> tuple[EpochRecord, ...]:
    return tuple(epoch("refit", n, loss=0.195 + 0.162 * math.exp(-n / 4)) for n in range(1, 12))


def bins() -> tuple[ReliabilityBin, ...]:
    """Reliability of rare events: most predictions are small."""
    return tuple(
        ReliabilityBin(
            predicted=(n + 0.45) / 10,
            observed=(n + 0.45) / 10 + 0.04 * math.sin(n),
            count=int(240_000 * math.exp(-0.62 * n)),
        )
        for n in range(10)
    )
