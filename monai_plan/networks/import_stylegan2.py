"""Published StyleGAN2 networks: NVlabs' pickles, read without executing anything in them.

The pickles of StyleGAN2-ADA (PyTorch) and of the StyleGAN2 in StyleGAN3's repository hold ``{"G", "D", "G_ema", …}``,
each as the source code of its module, which the published loader executes, beside the attributes of its object. Here
opcodes are run on a stack of plain values by ``_Opcodes``, which has no way to import or to call anything. Where a
pickle would have a function called, there is a ``_Call`` with the name and the arguments, and only the few names that
such networks need are let through. Numbers are read by ``torch.load`` with ``weights_only=True``.

Tensors have the published code's names in this module until ``_weights`` gives them ours.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import pickletools
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_plan.networks.layers import EqualizedLinear
from monai_plan.networks.stylegan2 import StyleGAN2Generator
from monai_plan.tensor_file import load_tensors
from monai_plan.utils import ArtifactError, ConfigError, first_line

_NETWORK = "torch_utils.persistence._reconstruct_persistent_obj"
_PARAMETER = "torch._utils._rebuild_parameter"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_STORAGE = "torch.storage._load_from_bytes"
_DICTS = ("collections.OrderedDict", "dnnlib.util.EasyDict")
_NAMES = frozenset(
    {_NETWORK, _PARAMETER, _TENSOR, _STORAGE, *_DICTS, "builtins.set", "numpy.dtype", "numpy.ndarray"}
    | {f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")}
)

_MAX_DOUBLINGS = 10  # from 4 to 4096 pixels; the published networks end at 1024
# What our generator has no option for: the modules, the attribute, its only value.
_FIXED = (
    (r"synthesis\.b\d+", "architecture", "skip"),
    (r"synthesis\.b\d+\.conv[01]|mapping\.fc\d+", "activation", "lrelu"),
    (r"mapping\.embed|.*\.affine", "activation", "linear"),
)


def load_stylegan2_pickle(path: str | os.PathLike[str]) -> StyleGAN2Generator:
    """Read the generator of an NVlabs StyleGAN2 pickle (PyTorch), executing nothing in the file.

    The average ``G_ema`` is read. In float32 and with constant noise it gives the published code's images, with the
    axes that MONAI's ``LoadImage`` gives: where the published code has rows first, the first spatial axis here runs
    from left to right. Labels, one-hot there, are integers here.

    Args:
        path: the file, ``*.pkl``, trained at 8 to 4096 pixels by StyleGAN2-ADA (PyTorch), or by StyleGAN3's repository
            with a StyleGAN2 configuration.

    Returns:
        The generator, on the CPU, in eval mode and without gradients, as from ``load_generator``; keep it with
        ``save_generator``.

    Raises:
        ArtifactError: if the file is missing, damaged, holds another network (TensorFlow, StyleGAN3, the
            architectures "orig" and "resnet", other filters or activations), or asks for any function that such a
            network does not need.
    """
    if not os.path.isfile(path):
        raise ArtifactError(f"{path} does not exist: give the .pkl file of a StyleGAN2 network.")
    try:
        tensors, modules = _flatten(_average_generator(Path(path).read_bytes()))
        _check_fixed(tensors, modules)
        architecture = _architecture(tensors, modules)
        weights = _weights(tensors, modules, architecture)
    except ArtifactError as error:
        raise ArtifactError(f"{path} cannot be imported: {error}") from error
    generator = StyleGAN2Generator(**architecture)
    generator.load_state_dict(weights)
    return generator.eval().requires_grad_(False)


@dataclass(frozen=True)
class _Name:
    """A class or function that the pickle names. It is neither looked up nor imported."""

    text: str


@dataclass(eq=False)
class _Call:
    """A call that the pickle asks for. It is not made."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None


class _Opcodes:
    """The stack machine of pickle, without the opcodes that find, import or call.

    Results are None, bool, int, float, str, bytes, tuple, list (also for a set), dict and ``_Call``. Opcodes that the
    pickles of protocol 3 to 5 of such networks do not have, among them those of the extension registry and of
    persistent ids, are refused.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """The value of a pickle.

        Raises:
            ArtifactError: if it has a name or an opcode that is refused.
            ValueError, IndexError, KeyError: if it is malformed.
        """
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                break
            self.step(opcode.name, argument)
        return self.stack.pop()

    def step(self, opcode: str, argument: Any) -> None:
        """Run one opcode."""
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                self.stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                self.stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self.stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case "MARK":
                self.marks.append(len(self.stack))
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_SET" | "EMPTY_DICT":
                self.stack.append({"EMPTY_TUPLE": (), "EMPTY_DICT": {}}.get(opcode, []))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self.pop(int(opcode[-1]))))
            case "TUPLE" | "FROZENSET":
                self.stack.append(tuple(self.pop_to_mark()))
            case "APPEND":
                self.extend(self.pop(1))
            case "APPENDS" | "ADDITEMS":
                self.extend(self.pop_to_mark())
            case "SETITEM":
                self.update(self.pop(2))
            case "SETITEMS":
                self.update(self.pop_to_mark())
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "GLOBAL":
                self.stack.append(_name(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                module, name = self.pop(2)
                if not isinstance(module, str) or not isinstance(name, str):
                    raise ValueError("a name that is no text")
                self.stack.append(_name(f"{module}.{name}"))
            case "REDUCE" | "NEWOBJ":
                self.stack.append(_call(*self.pop(2)))
            case "BUILD":
                (state,) = self.pop(1)
                if not isinstance(self.stack[-1], _Call):
                    raise ValueError("attributes of something that is no object")
                self.stack[-1].state = state
            case _:
                raise ArtifactError(
                    f"it has the pickle opcode {opcode}, which the pickle of such a network does not have. Nothing in "
                    "it was executed."
                )

    def pop(self, count: int) -> list[Any]:
        """Take the last values off the stack."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def pop_to_mark(self) -> list[Any]:
        """Take the values behind the last mark off the stack."""
        return self.pop(len(self.stack) - self.marks.pop())

    def extend(self, values: list[Any]) -> None:
        """Append to the list on top of the stack."""
        if not isinstance(self.stack[-1], list):
            raise ValueError("items of something that is no list")
        self.stack[-1].extend(values)

    def update(self, values: list[Any]) -> None:
        """Put keys and values into the dict on top of the stack."""
        # other keys are never needed, and hashing a deeply nested tuple could exhaust the C stack
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, str) for key in values[::2]):
            raise ValueError("items of something that is no dict with text as keys")
        self.stack[-1].update(zip(values[::2], values[1::2], strict=True))


def _name(text: str) -> _Name:
    if text.startswith("dnnlib.tflib."):
        raise ArtifactError(
            "it is a TensorFlow network. Convert it with legacy.py of NVlabs' stylegan2-ada-pytorch, on a machine on "
            "which untrusted code may run, for that executes what is in the file; then import what it writes."
        )
    if text not in _NAMES:
        raise ArtifactError(
            f"it asks for {text[:100]!r}, which no StyleGAN2 network needs. Nothing in it was executed. Ask where the "
            "file comes from, and do not load it with code that unpickles, NVlabs' own included."
        )
    return _Name(text)


def _call(function: Any, arguments: Any) -> Any:
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise ValueError("a call of something that is no function")
    if function.text in _DICTS and not arguments:
        return {}
    return _Call(function.text, arguments)


def _average_generator(content: bytes) -> _Call:
    """The record of ``G_ema``."""
    if not content.startswith(b"\x80"):
        raise ArtifactError("it is no pickle. NVlabs' networks are files named *.pkl.")
    try:
        value = _Opcodes().run(content)
    except (ValueError, IndexError, KeyError) as error:
        raise ArtifactError(f"it is damaged: copy or download it again. ({first_line(error)})") from error
    if not isinstance(value, dict):
        raise ArtifactError(
            "it holds no dict of networks with G_ema among them: NVlabs' networks are files named *.pkl, other formats "
            "are not read."
        )
    if "G_ema" not in value:
        raise ArtifactError(f"it has no G_ema, the averaged generator, but {reprlib.repr(sorted(value))}.")
    record = value["G_ema"]
    if not isinstance(record, _Call):
        raise ArtifactError("its G_ema is no network.")
    return record


def _flatten(network: _Call) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Parameters and buffers, and the attributes of each module, by dotted names."""
    tensors: dict[str, Tensor] = {}
    modules: dict[str, dict[str, Any]] = {}
    pending: list[tuple[str, Any]] = [("", network)]
    seen: set[int] = set()
    while pending:
        prefix, record = pending.pop()
        state = _attributes(record, prefix or "G_ema")
        if id(record) in seen:  # also a module within itself
            raise ArtifactError(f"its modules are no tree: {prefix} is there twice.")
        seen.add(id(record))
        modules[prefix] = state
        dot = f"{prefix}." if prefix else ""
        for name, value in {**state["_parameters"], **state["_buffers"]}.items():
            if value is not None:
                tensors[f"{dot}{name}"] = _tensor(value, f"{dot}{name}")
        pending += [(f"{dot}{name}", child) for name, child in state["_modules"].items() if child is not None]
    return tensors, modules


def _attributes(record: Any, name: str) -> dict[str, Any]:
    match record:
        case _Call(function, ({"state": {"_parameters": dict(), "_buffers": dict(), "_modules": dict()} as state},)):
            if function == _NETWORK:
                return dict(state)
    raise ArtifactError(f"its {name} is not stored in the form of StyleGAN2-ADA (PyTorch).")


def _tensor(record: Any, name: str) -> Tensor:
    match record:
        case _Call(function, (_Call() as inner, *_)) if function == _PARAMETER:
            record = inner
    match record:
        case _Call(function, (_Call(source, (bytes(data),)), int(offset), tuple(size), tuple(stride), *_)):
            if (function, source) == (_TENSOR, _STORAGE):
                return _numbers(data, offset, size, stride, name)
    raise ArtifactError(f"its {name} is no tensor.")


def _numbers(data: bytes, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...], name: str) -> Tensor:
    try:
        storage = load_tensors(io.BytesIO(data))
    except Exception as error:  # torch.load raises what it likes on a damaged file
        raise ArtifactError(
            f"the numbers of its {name} are damaged or hold more than numbers. Nothing in them was executed. "
            f"({type(error).__name__})"
        ) from error
    plain = len(size) <= 4 and all(isinstance(length, int) for length in size)
    if isinstance(storage, torch.storage.TypedStorage) and plain:
        values = torch.empty(0, dtype=storage.dtype).set_(storage)
        # All numbers are in the file, at the end, and none stands for many: memory is bounded by the file's size.
        in_file = values.nbytes <= len(data) and data.endswith(values.view(torch.uint8).numpy().tobytes())
        if in_file and values.is_floating_point() and math.prod(size) <= values.numel():
            try:
                return values.as_strided(size, stride, offset)
            except (RuntimeError, TypeError, ValueError, OverflowError):
                pass
    raise ArtifactError(f"the size of its {name} does not fit its numbers, or they are no floating point numbers.")


def _attribute(modules: Mapping[str, Mapping[str, Any]], module: str, name: str) -> Any:
    if name not in modules.get(module, {}):
        raise ArtifactError(f"it lacks {module}.{name}, which StyleGAN2-ADA (PyTorch) has.")
    return modules[module][name]


def _positive(value: Any, name: str) -> float:
    if not isinstance(value, int | float) or not 0 < value < 1e9:
        raise ArtifactError(f"{name} is {reprlib.repr(value)}, but must be a number above 0.")
    return float(value)


def _check_fixed(tensors: Mapping[str, Tensor], modules: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse by name what our generator has no option for."""
    if "synthesis.input" in modules:
        raise ArtifactError("it is a StyleGAN3 generator, an architecture that is not supported: train a StyleGAN2.")
    for name, (pattern, attribute, value) in itertools.product(modules, _FIXED):
        if re.fullmatch(pattern, name) and (found := _attribute(modules, name, attribute)) != value:
            raise ArtifactError(
                f"{name}.{attribute} is {reprlib.repr(found)}, but only networks with {value!r} can be read."
            )
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    for name, tensor in tensors.items():
        if not name.endswith("resample_filter"):
            continue
        if tensor.shape != (4, 4) or not tensor.float().allclose(taps.outer(taps)):
            raise ArtifactError(f"{name} is not the filter [1, 3, 3, 1], the only one that can be read.")


def _architecture(tensors: Mapping[str, Tensor], modules: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The arguments of ``StyleGAN2Generator``, from the tensors' sizes: the stored arguments leave out defaults."""

    def length(name: str, axis: int) -> int:
        if name not in tensors or tensors[name].ndim <= axis:
            raise ArtifactError(f"it lacks {name}, or that has another form than in StyleGAN2-ADA (PyTorch).")
        return tensors[name].shape[axis]

    sizes = [4 * 2**level for level in range(_MAX_DOUBLINGS + 1) if f"synthesis.b{4 * 2**level}" in modules] or [4]
    channels = {size: length(f"synthesis.b{size}.conv1.weight", 0) for size in sizes}
    mapping_layers = next(n for n in itertools.count() if f"mapping.fc{n}" not in modules)
    conditional = "mapping.embed" in modules
    return {
        "spatial_dims": 2,
        "img_size": [sizes[-1], sizes[-1]],
        "img_channels": length("synthesis.b4.torgb.weight", 0),
        "z_dim": length("mapping.fc0.weight", 1) - (length("mapping.embed.weight", 0) if conditional else 0),
        "w_dim": length(f"mapping.fc{max(mapping_layers - 1, 0)}.weight", 0),
        "num_classes": length("mapping.embed.weight", 1) if conditional else 0,
        "channel_base": max(size * count for size, count in channels.items()),  # the least that gives these channels
        "channel_max": max(channels.values()),
        "mapping_layers": mapping_layers,
        "conv_clamp": _conv_clamp(modules),
    }


def _conv_clamp(modules: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Where the layers clamp what they put out, whatever the precision."""
    layers = [name.removesuffix(".affine") for name in modules if name.endswith(".affine")]
    limits = [_attribute(modules, name, "conv_clamp") for name in layers]
    limits = [limit if limit is None else _positive(limit, "conv_clamp") for limit in limits]
    if len(set(limits)) > 1:
        raise ArtifactError("conv_clamp is not the same in all layers, but only such networks can be read.")
    return limits[0] if limits else None


def _weights(
    tensors: Mapping[str, Tensor], modules: Mapping[str, Mapping[str, Any]], architecture: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The state of our generator.

    Three things differ. (1) Axes: rows are first in the published arrays, so the spatial axes of the constant, of the
    kernels and of the noise are swapped; the filter between them is symmetric. (2) Learning rate multipliers other
    than ours are multiplied into the weights of the mapping network. (3) Biases get axes of length 1. The published
    3x3 convolutions do not have the gain that ours have, and need not: demodulation takes it away.
    """
    try:
        with torch.device("meta"):  # sizes only: they are compared with the file's before memory is taken
            network = StyleGAN2Generator(**architecture)
    except (ConfigError, RuntimeError) as error:
        raise ArtifactError(f"its sizes make no generator: {first_line(error)}") from error
    ours = {name: tensor.shape for name, tensor in network.state_dict().items()}
    theirs = _with_noise(tensors, modules, {_published_name(name): shape for name, shape in ours.items()})
    weights = {}
    for name, shape in ours.items():
        value = theirs[_published_name(name)].float()
        if value.ndim == 4 or (value.ndim > 1 and name.endswith("const")):
            value = value.mT
        if value.ndim == 1 and name.endswith("bias"):
            value = value.view(-1, *(1,) * (len(shape) - 1))
        if value.shape != shape:
            raise ArtifactError(f"{_published_name(name)} has shape {list(value.shape)}, expected {list(shape)}.")
        weights[name] = value
    for name, module in network.named_modules():
        if isinstance(module, EqualizedLinear):
            published = _published_name(name)
            gain = _positive(_attribute(modules, published, "bias_gain"), f"{published}.bias_gain") / module.bias_gain
            for kind in ("weight", "bias"):
                weights[f"{name}.{kind}"] = weights[f"{name}.{kind}"] * gain
    return weights


def _with_noise(
    tensors: Mapping[str, Tensor], modules: Mapping[str, Mapping[str, Any]], expected: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """Exactly the expected tensors; a network that was made without noise gets noise of strength 0."""
    found = {name: tensor for name, tensor in tensors.items() if not name.endswith("resample_filter")}
    for name, shape in expected.items():
        layer, _, kind = name.rpartition(".")
        if kind in ("noise_const", "noise_strength") and modules.get(layer, {}).get("use_noise") is False:
            found.setdefault(name, torch.zeros(shape))
    for text, names in (
        ("lacks tensors that StyleGAN2 has", expected.keys() - found.keys()),
        ("has tensors that StyleGAN2 does not have", found.keys() - expected.keys()),
    ):
        if names:
            raise ArtifactError(f"it {text}, {min(names)} among {len(names)}.")
    return found


def _published_name(name: str) -> str:
    """The published name of a tensor or module of our generator."""
    name = re.sub(r"^mapping\.layers\.", "mapping.fc", name)
    name = re.sub(r"^synthesis\.blocks\.(\d+)", lambda level: f"synthesis.b{4 * 2 ** int(level[1])}", name)
    return name.replace(".to_image.", ".torgb.").replace(".conv.", ".")
