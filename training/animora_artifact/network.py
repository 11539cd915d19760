"""Saves, loads and replays the TorchScript network, `model.ts`."""

import errno
import io
import re
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from animora_artifact.archive import UNREADABLE, open_stored
from animora_artifact.durability import require_room
from animora_artifact.errors import ArtifactRejected, RejectionReason
from animora_artifact.golden import Golden

MAX_CODE_BYTES = 16 << 20  # of TorchScript's code and debug information, which are compressed
METHODS = ("encode_posts", "score", "explain")
# Upper bound of the size of a model file without its weights.
ROOM_FOR_CODE = 1 << 20
# Errors that a network's methods raise; torch.jit.Error is not a subclass of the others.
NETWORK_ERRORS = (RuntimeError, IndexError, ValueError, TypeError, AttributeError, torch.jit.Error)
# TorchScript functions that access files or print.
_OUTSIDE = re.compile(rb"\b(save|from_file|load_tensor|_?print|Print)\b")
# getattr with a literal name, as PyTorch writes parts of a Sequential; a computed name could hide a function.
_ATTRIBUTE = re.compile(rb"""\bgetattr\([^"'\\#]*, ?"[^"\\#]*"\)""")
# Words of errors that mean that memory ran out; the last are those of cuBLAS, first used on a full GPU
_OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "not enough memory", "std::bad_alloc"),
    "CUBLAS_STATUS_ALLOC_FAILED",
)


class Network(Protocol):
    """The interface of a model file, on any device, in any floating dtype.

    Row 0 is the unknown user or post.
    """

    def encode_posts(self, post_rows: Tensor, image: Tensor, caption: Tensor) -> Tensor:
        """Post vectors (n, d): the part of the network that depends on the post alone.

        A vector is the sum of the parts of id, image and caption; an absent embedding adds 0.

        Args:
            post_rows: int64 (n).
            image: floating (n, image width); zeros where absent.
            caption: floating (n, caption width); zeros where absent.
        """
        ...

    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        """Logits (m).

        Args:
            user_rows: int64 (b), the users of a batch's requests.
            segments: int64 (m), the request (index into user_rows) of each pair.
            post_table: floating (capacity, d), rows from encode_posts.
            post_index: int64 (m), the row in post_table of each pair.
        """
        ...

    def explain(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        """Terms (m, 3) whose sum is the logit: GMF branch, MLP branch, bias. Arguments as in score.

        The GMF branch includes the post's bias and is linear in the post vector; the bias term is the same
        for all posts of a user.
        """
        ...


def save_network(module: torch.nn.Module) -> bytes:
    """Scripts and serialises a module that has Network's methods.

    Raises:
        OSError: The folder of temporary files has no room for it.
    """
    scripted = torch.jit.script(module)
    # Through a file: in memory, PyTorch would make three copies of the weights. On a full disk PyTorch may
    # end the process, so the room is checked first.
    with tempfile.TemporaryDirectory(prefix="animora-model-") as folder:
        path = Path(folder, "model.ts")
        require_room(path, _stored(module) + ROOM_FOR_CODE)
        try:
            torch.jit.save(scripted, str(path))
        except RuntimeError as error:  # without a cause in PyTorch's text
            raise OSError(errno.EIO, "PyTorch failed to write the model") from error
        return path.read_bytes()


def _stored(module: torch.nn.Module) -> int:
    """Size of a module's weights in bytes; shared storages count once."""
    storages = [tensor.untyped_storage() for tensor in module.state_dict().values()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def load_network(model: bytes, device: torch.device, dtype: torch.dtype = torch.float32) -> Network:
    """Loads `model.ts`, whose bytes were verified, onto a device in a dtype.

    The module is not frozen: in PyTorch 2.13 an error inside a frozen module ends the process with a
    segmentation fault once a second module was loaded, and freezing does not make scoring faster.

    Raises:
        ArtifactRejected: The file is not a TorchScript module with Network's methods, its code uses a
            function that accesses files or prints, or a weight is not finite.
        RuntimeError: The module does not fit into memory; see is_out_of_memory.
    """
    try:
        _require_stored(model)
        _require_no_files(model)  # first: loading may run the module's code
        module = _parse(model)
        _require_methods(module)
        _require_whole({**module.state_dict(), **_constants(module)})
        module = module.to(dtype=dtype).to(device).eval()
        state = module.state_dict(keep_vars=True)
    except (*NETWORK_ERRORS, *UNREADABLE) as error:
        if is_out_of_memory(error):
            raise
        raise ArtifactRejected(
            RejectionReason.CONTENT, f"model.ts does not load: {type(error).__name__}"
        ) from error
    for tensor in state.values():
        tensor.requires_grad_(False)
    for name, tensor in {**state, **_constants(module)}.items():
        if not _is_finite(tensor):
            raise ArtifactRejected(
                RejectionReason.CONTENT, f"model.ts: {name} holds a weight that is not finite in {dtype}"
            )
    return cast(Network, module)


def _parse(model: bytes) -> torch.jit.ScriptModule:
    """Loads the module on the CPU.

    Reads it from an unnamed temporary file if possible: from memory, PyTorch would make two copies.
    """
    with ExitStack() as stack:
        source: str | io.BytesIO
        try:
            # Unbuffered: a buffer would raise a second error on close.
            file = stack.enter_context(tempfile.TemporaryFile(prefix="animora-model-", buffering=0))
            rest = memoryview(model)
            while rest:
                rest = rest[file.write(rest) :]
            source = f"/dev/fd/{file.fileno()}"
            Path(source).stat()
        except OSError:  # no room, no writable folder, or not a POSIX system
            source = io.BytesIO(model)
        return cast(torch.jit.ScriptModule, torch.jit.load(source, map_location="cpu"))  # type: ignore[no-untyped-call]


def _require_stored(model: bytes) -> None:
    """Requires uncompressed tensors, as `torch.jit.save` writes them, so they are no larger than the file."""
    try:
        with open_stored(model, compressed_folder="code", max_expanded=MAX_CODE_BYTES):
            pass
    except ArtifactRejected as error:
        raise ArtifactRejected(error.reason, f"model.ts: {error.detail}") from error


def _require_methods(module: torch.jit.ScriptModule) -> None:
    for name in METHODS:
        if not _gives_tensor(getattr(module, name, None)):
            raise ArtifactRejected(
                RejectionReason.CONTENT, f"model.ts has no method {name} that returns a tensor"
            )


def _require_whole(tensors: Mapping[str, Tensor]) -> None:
    """A tensor must have no more elements than its storage: a stride of 0 would repeat them without end."""
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ArtifactRejected(
                RejectionReason.CONTENT,
                f"model.ts: {name} has {tensor.numel()} elements, more than the file holds for it",
            )


def _require_no_files(model: bytes) -> None:
    """The code of a network must name no function by which it reaches files or the standard output.

    Its source is read as PyTorch reads it when it loads the module.
    """
    reader = torch._C.PyTorchFileReader(io.BytesIO(model))
    for name in reader.get_all_records():
        if not name.endswith(".py"):
            continue
        code = reader.get_record(name)
        if found := _OUTSIDE.search(code):
            raise ArtifactRejected(
                RejectionReason.CONTENT,
                f"model.ts: its code names {found[1].decode()}, which reaches files or the output",
            )
        while _ATTRIBUTE.search(code):  # an attribute's own, too
            code = _ATTRIBUTE.sub(b" _ ", code)
        if b"getattr" in code:
            raise ArtifactRejected(
                RejectionReason.CONTENT, "model.ts: its code names an attribute other than by one text"
            )


def _constants(module: torch.jit.ScriptModule) -> dict[str, Tensor]:
    """Tensors that are constants in the methods' code, such as the weights of a frozen module."""
    constants = [getattr(module, name).code_with_constants[1] for name in METHODS]
    return {
        f"{method}.{name}": value
        for method, values in zip(METHODS, constants, strict=True)
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def _gives_tensor(method: object) -> bool:
    if not isinstance(method, torch.ScriptMethod):
        return False
    return [result.type.kind() for result in method.schema.returns] == ["TensorType"]


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of PyTorch means that memory ran out; TorchScript's is recognised by its text."""
    text = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in text for words in _OUT_OF_MEMORY
    )


def _is_finite(tensor: Tensor) -> bool:
    """Whether all elements are finite. Checks the extremes, without a mask as large as the tensor."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) and torch.isfinite(high))


def golden_error(
    network: Network, golden: Golden, device: torch.device, dtype: torch.dtype = torch.float32
) -> float:
    """Largest absolute difference between replayed and recorded probabilities; inf if not finite.

    Raises the errors of `replay`.
    """
    return golden.error(replay(network, golden, device, dtype))


@torch.inference_mode()
def replay(
    network: Network, golden: Golden, device: torch.device, dtype: torch.dtype = torch.float32
) -> npt.NDArray[np.float32]:
    """Probabilities float32 (m) of the golden rows.

    Raises:
        ArtifactRejected: The network does not accept the recorded inputs, or returns another shape than (m).
        RuntimeError: Memory ran out; see is_out_of_memory.
    """
    try:
        table = network.encode_posts(
            torch.from_numpy(golden.post_rows).to(device),
            torch.from_numpy(golden.image).to(device, dtype),
            torch.from_numpy(golden.caption).to(device, dtype),
        )
        logits = network.score(
            torch.from_numpy(golden.user_rows).to(device),
            torch.from_numpy(golden.segments).to(device),
            table,
            torch.from_numpy(golden.post_index).to(device),
        )
    except NETWORK_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise ArtifactRejected(
            RejectionReason.DIMENSIONS, "the network does not take the golden rows"
        ) from error
    replayed: npt.NDArray[np.float32] = torch.sigmoid(logits.float()).cpu().numpy()
    if replayed.shape != golden.probabilities.shape:
        raise ArtifactRejected(RejectionReason.DIMENSIONS, "the network gives another number of golden rows")
    return replayed
