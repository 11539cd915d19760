import pytest
import torch

from animora_training.modeling.rowwise_adam import BETAS, EPSILON, RowwiseAdam

ROWS, WIDTH, STEPS = 7, 4, 25


def table(seed=0):
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(values, step):
    """Gradients of a function with several minima, different in each step."""
    targets = table(seed=100 + step)[: len(values)]
    return 2 * (values.detach() - targets) - 3 * torch.sin(3 * values.detach())


def other(optimizer, start):
    """The table after PyTorch's optimizer when every step touches every row."""
    values = start.clone().requires_grad_()
    adam = optimizer([values], lr=0.05, betas=BETAS, eps=EPSILON)
    for step in range(STEPS):
        dense = gradient(values, step)
        values.grad = dense.to_sparse(1) if optimizer is torch.optim.SparseAdam else dense
        adam.step()
    return values.detach()


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SparseAdam])
def test_with_all_rows_in_each_step_it_equals_adam(optimizer):
    rows, rates = torch.arange(ROWS), torch.full((WIDTH,), 0.05, dtype=torch.float64)
    mine = RowwiseAdam(table())
    for step in range(STEPS):
        mine.step(rows, gradient(mine.table, step), rates)
    torch.testing.assert_close(mine.table, other(optimizer, table()), rtol=1e-6, atol=1e-6)


def test_each_row_equals_adam_over_the_steps_that_touch_it():
    chance = torch.Generator().manual_seed(1)
    touched = [
        torch.randperm(ROWS - 1, generator=chance)[: 1 + step % 5].sort().values for step in range(STEPS)
    ]
    mine = RowwiseAdam(table())
    rates = torch.full((WIDTH,), 0.05, dtype=torch.float64)
    for step, rows in enumerate(touched):
        untouched = torch.ones(ROWS, dtype=torch.bool).index_fill(0, rows, False)
        before = {name: value.clone() for name, value in mine.state().items()}
        mine.step(rows, gradient(mine.gather(rows), step), rates)
        for name, value in mine.state().items():
            assert torch.equal(value[untouched], before[name][untouched])
    for row in range(ROWS):
        values = table()[row : row + 1].requires_grad_()
        adam = torch.optim.Adam([values], lr=0.05, betas=BETAS, eps=EPSILON)
        for step, rows in enumerate(touched):
            if row in rows:
                place = rows.tolist().index(row)
                values.grad = gradient(values.expand(len(rows), -1), step)[place : place + 1]
                adam.step()
        torch.testing.assert_close(mine.table[row : row + 1], values.detach(), rtol=1e-6, atol=1e-6)
    assert torch.equal(mine.table[-1], table()[-1])  # which nothing has touched


def test_each_column_has_its_own_learning_rate():
    mine = RowwiseAdam(table())
    mine.step(torch.arange(ROWS), torch.ones_like(table()), torch.tensor([0.0, 0.1, 0.2, 0.4]))
    moved = (table() - mine.table)[0]
    assert moved.tolist() == pytest.approx([0.0, 0.1, 0.2, 0.4])


def test_a_restored_state_continues_bit_for_bit():
    rates = torch.full((WIDTH,), 0.05, dtype=torch.float64)
    mine = RowwiseAdam(table())
    mine.step(torch.tensor([0, 3]), gradient(mine.table, 0)[[0, 3]], rates)
    kept = {name: value.clone() for name, value in mine.state().items()}
    restored = RowwiseAdam(torch.zeros_like(table()))
    restored.restore(kept)
    for one in (mine, restored):
        one.step(torch.tensor([3, 5]), gradient(one.table, 1)[[3, 5]], rates)
    for name, value in mine.state().items():
        assert torch.equal(value, restored.state()[name])
