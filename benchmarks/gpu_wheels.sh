#!/usr/bin/env bash
# Makes the wheels for a GPU machine that has Python 3.12, torch 2.11 (CUDA 13), transformers and
# accelerate, but no network:
#   gpu_wheels.sh FOLDER   FOLDER/a: DeepSpeed and small packages; FOLDER/b: Ray without Java,
#                          dashboard, RLlib and Serve; FOLDER/c: pyarrow. No part is above 60 MiB.
# There: python3 -m pip install --no-index --no-deps --target SITE FOLDER/*/*.whl
#        export PYTHONPATH=SITE:REPOSITORY PATH=SITE/bin:$PATH
# PATH is for ninja, with which DeepSpeed compiles its CPU Adam; parts b and c are for Ray alone.
set -euo pipefail
out=${1:?folder for the wheels}
mkdir -p "$out/a" "$out/b" "$out/c"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The versions of the lock for GPUs, which has those of all packages here.
lock=$(dirname "$0")/../requirements/gpu.txt
fetch=(python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12
  --implementation cp --constraint "$lock")
for n in manylinux_2_28 manylinux_2_24 manylinux_2_17 manylinux2014; do
  fetch+=(--platform "${n}_x86_64")
done

# DeepSpeed comes as source: without compiled operators its wheel is plain Python.
DS_BUILD_OPS=0 python3 -m pip wheel -q --no-deps --no-build-isolation -c "$lock" -w "$out/a" deepspeed
"${fetch[@]}" -d "$out/a" hjson py-cpuinfo msgpack ninja pydantic pydantic-core typing-inspection \
  annotated-types einops psutil liger-kernel pyyaml rich fsspec filelock
"${fetch[@]}" -d "$out/c" pyarrow
# ray.init needs the first lines, ray.data the last; rich and typer of Ray's command are not here.
"${fetch[@]}" -d "$out/b" protobuf jsonschema jsonschema-specifications attrs referencing rpds-py \
  requests urllib3 idna certifi charset-normalizer click packaging \
  pandas python-dateutil tzdata tensorboardX
"${fetch[@]}" -d "$work" ray
python3 - "$work" "$out/b" <<'PY'
import pathlib
import sys
import zipfile

source = next(pathlib.Path(sys.argv[1]).glob("ray-*.whl"))
left_out = ("ray/jars/", "ray/dashboard/client/", "ray/rllib/", "ray/serve/", "ray/cpp/",
            "ray/core/src/ray/cpp")
target = pathlib.Path(sys.argv[2]) / source.name
with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED,
                                                     compresslevel=9) as new:
    for entry in old.infolist():
        if not entry.filename.startswith(left_out):
            data = old.read(entry)
            # Ray's wheel has the RECORD files of packages that it bundles, too; those stay.
            if entry.filename.endswith("/RECORD") and entry.filename.count("/") == 1:
                lines = (line for line in data.splitlines()
                         if not line.decode().startswith(left_out))
                data = b"\n".join(lines) + b"\n"
            new.writestr(entry, data)
PY
for part in "$out"/*; do
  size=$(du -sm "$part" | cut -f1)
  echo "$part: $size MiB"
  [ "$size" -le 60 ] || { echo "$part is above 60 MiB" >&2; exit 1; }
done
