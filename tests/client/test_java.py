"""The example of docs/client.md for Java compiles and runs, with Debian's packages for gRPC."""

import shutil
from pathlib import Path

import pytest

from tests.support.documented import ROOT, example, output, protoc_command, replaced

JARS = Path("/usr/share/java")
PACKAGES = (
    "default-jdk-headless libgrpc-java libprotobuf-dev protobuf-compiler protobuf-compiler-grpc-java-plugin"
)
NAMES = (
    *(
        "grpc-api",
        "grpc-context",
        "grpc-core",
        "grpc-netty",
        "grpc-protobuf",
        "grpc-protobuf-lite",
        "grpc-stub",
    ),
    *("guava", "perfmark-api", "proto-google-common-protos", "protobuf"),
    *("netty-buffer", "netty-codec", "netty-codec-http", "netty-codec-http2", "netty-common"),
    *("netty-handler", "netty-resolver", "netty-transport"),
    "geronimo-annotation-1.3-spec",  # javax.annotation.Generated
)


async def test_the_example_for_java_prints_what_the_page_says(server, tmp_path):
    paths = [JARS / f"{name}.jar" for name in NAMES]
    missing = [path.stem for path in paths if not path.exists()]
    if missing or not all(map(shutil.which, ("java", "javac", "protoc", "grpc_java_plugin"))):
        pytest.skip(f"not installed: apt-get install {PACKAGES} {' '.join(missing)}")
    program, printed = example("java")
    program = replaced(
        program,
        {
            "localhost:50051": server.target,
            "TimeUnit.SECONDS": "TimeUnit.MINUTES",  # however busy the machine is
        },
    )
    (tmp_path / "proto").symlink_to(ROOT / "proto")
    (tmp_path / "generated").mkdir()
    (tmp_path / "Main.java").write_text(program)
    command = replaced(protoc_command("Java and Kotlin"), {"PLUGIN": shutil.which("grpc_java_plugin") or ""})
    jars = ":".join(map(str, paths))

    await output("sh", "-c", command, folder=tmp_path)
    await output(
        *("javac", "-cp", jars, "-sourcepath", "generated", "-d", "classes", "Main.java"), folder=tmp_path
    )

    assert await output("java", "-cp", f"{jars}:classes", "Main", folder=tmp_path) == printed
