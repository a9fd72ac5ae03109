"""Compiles the contracts into `gen/`: Python code, and their descriptors with comments.

The rules of protovalidate come out of the installed package, so that what a contract says and what
is checked are of one version.
"""

import shutil
import sys
from importlib import import_module, resources
from pathlib import Path

import grpc_tools
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.rpc import status_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb

HERE = Path(__file__).parent
GEN = HERE / "gen"
COMPILED = "vlinders.binpb"
RULES = "buf/validate/validate.proto"
RULES_NEED = ("descriptor", "duration", "field_mask", "timestamp")


def main() -> int:
    building = HERE / "gen.building"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    rules = building / "rules.binpb"
    rules.write_bytes(_rules().SerializeToString())
    ours = sorted(str(path.relative_to(HERE)) for path in HERE.glob("vlinders/**/*.proto"))
    well_known = resources.files(grpc_tools) / "_proto"
    google = Path(status_pb2.__file__).parents[2]
    python = [f"--python_out={building}", f"--pyi_out={building}"]
    includes = [f"-I{HERE}", f"-I{well_known}", f"-I{google}"]
    failed = protoc.main(["protoc", f"--descriptor_set_in={rules}", *python, RULES]) or protoc.main(
        [
            *("protoc", *includes, f"--descriptor_set_in={rules}", *python),
            *(f"--grpc_python_out={building}", f"--descriptor_set_out={building / COMPILED}"),
            *("--include_imports", "--include_source_info", *ours),
        ]
    )
    if failed:
        return failed
    rules.unlink()
    for package in {path.parent for path in building.rglob("*.py")}:
        (package / "py.typed").touch()
    shutil.rmtree(GEN, ignore_errors=True)
    building.rename(GEN)
    return 0


def _rules() -> FileDescriptorSet:
    """The descriptor of protovalidate's options, after the files that it imports."""
    files = FileDescriptorSet()
    for name in RULES_NEED:
        module = (
            descriptor_pb2 if name == "descriptor" else import_module(f"google.protobuf.{name}_pb2")
        )
        files.file.add().MergeFromString(module.DESCRIPTOR.serialized_pb)
    files.file.append(FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary()))
    return files


if __name__ == "__main__":
    sys.exit(main())
