"""The inference protocol of KServe (V2) over gRPC, as far as the benchmark uses it.

Its messages are declared here, so that neither a compiler nor another project's stubs are needed.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PATH = "/inference.GRPCInferenceService/ModelInfer"

_Type = descriptor_pb2.FieldDescriptorProto.Type
_STRING, _INT64 = _Type.Value("TYPE_STRING"), _Type.Value("TYPE_INT64")
_BYTES, _MESSAGE = _Type.Value("TYPE_BYTES"), _Type.Value("TYPE_MESSAGE")


def _add(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: Any, repeated: bool) -> None:
    label = "LABEL_REPEATED" if repeated else "LABEL_OPTIONAL"
    message.field.add(
        name=name,
        number=number,
        type=kind,
        label=descriptor_pb2.FieldDescriptorProto.Label.Value(label),
        type_name=".inference.Tensor" if kind == _MESSAGE else None,
    )


def _messages() -> tuple[type[Any], type[Any]]:
    """ModelInferRequest and ModelInferResponse, without unused fields."""
    file = descriptor_pb2.FileDescriptorProto(name="v2.proto", package="inference", syntax="proto3")
    tensor = file.message_type.add(name="Tensor")
    _add(tensor, "name", 1, _STRING, repeated=False)
    _add(tensor, "datatype", 2, _STRING, repeated=False)
    _add(tensor, "shape", 3, _INT64, repeated=True)
    request = file.message_type.add(name="ModelInferRequest")
    _add(request, "model_name", 1, _STRING, repeated=False)
    _add(request, "inputs", 5, _MESSAGE, repeated=True)
    _add(request, "raw_input_contents", 7, _BYTES, repeated=True)
    response = file.message_type.add(name="ModelInferResponse")
    _add(response, "outputs", 5, _MESSAGE, repeated=True)
    _add(response, "raw_output_contents", 6, _BYTES, repeated=True)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    types = (pool.FindMessageTypeByName(f"inference.{one.name}") for one in (request, response))
    first, second = map(message_factory.GetMessageClass, types)
    return first, second


ModelInferRequest, ModelInferResponse = _messages()
