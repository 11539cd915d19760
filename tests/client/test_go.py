"""The example of docs/client.md for Go compiles and runs, with Debian's packages for Go and gRPC."""

import shutil
from pathlib import Path

import pytest

from tests.support.documented import ROOT, example, output, protoc_command, replaced

SOURCES = Path("/usr/share/gocode")
PACKAGES = (
    "golang-go golang-google-grpc-dev libprotobuf-dev protobuf-compiler protoc-gen-go protoc-gen-go-grpc"
)
# Debian's grpc-go 1.33 encodes with an older protobuf package than the generated code is made for.
CODEC = """package main

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/proto"
)

type codec struct{}

func (codec) Marshal(message interface{}) ([]byte, error) { return proto.Marshal(message.(proto.Message)) }
func (codec) Unmarshal(data []byte, message interface{}) error {
	return proto.Unmarshal(data, message.(proto.Message))
}
func (codec) Name() string { return "proto" }

func init() { encoding.RegisterCodec(codec{}) }
"""


async def test_the_example_for_go_prints_what_the_page_says(server, tmp_path):
    programs = ("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")
    if not all(map(shutil.which, programs)) or not (SOURCES / "src/google.golang.org/grpc").is_dir():
        pytest.skip(f"not installed: apt-get install {PACKAGES}")
    program, printed = example("go")
    program = replaced(
        program,
        {
            "localhost:50051": server.target,
            "time.Second": "time.Minute",  # however busy the machine is
            # What grpc-go had in their place before 1.34 and 1.63.
            '	"google.golang.org/grpc/credentials/insecure"\n': "",
            "grpc.WithTransportCredentials(insecure.NewCredentials())": "grpc.WithInsecure()",
            "grpc.NewClient": "grpc.Dial",
        },
    )
    module = tmp_path / "src/example.com/feed"
    module.mkdir(parents=True)
    (module / "proto").symlink_to(ROOT / "proto")
    (module / "main.go").write_text(program)
    (module / "codec.go").write_text(CODEC)

    await output("sh", "-c", protoc_command("Go"), folder=module)
    ran = await output(
        *("go", "run", "."),
        folder=module,
        GO111MODULE="off",
        GOPATH=f"{tmp_path}:{SOURCES}",
        GRPC_GO_RETRY="on",  # off by default before 1.40
    )

    assert ran == printed
