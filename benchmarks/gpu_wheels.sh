#!/usr/bin/env bash
# Makes the wheels for a GPU machine that has Python 3.12, torch 2.11 (CUDA 13), transformers and
# accelerate, but no network:
#   gpu_wheels.sh FOLDER   FOLDER/a: DeepSpeed and small packages; FOLDER/b: Ray without Java,
#                          dashboard, RLlib and Serve; FOLDER/c: pyarrow. No part is above 60 MiB.
# There: python3 -m pip install --no-index --no-deps --target SITE FOLDER/*/*.whl
#        export PYTHONPATH=SITE:REPOSITORY
# Part b is for the trainings through Ray Train alone.
set -euo pipefail
out=${1:?folder for the wheels}
mkdir -p "$out/a" "$out/b" "$out/c"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fetch=(python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12
  --implementation cp)
for n in manylinux_2_28 manylinux_2_24 manylinux_2_17 manylinux2014; do
  fetch+=(--platform "${n}_x86_64")
done

# DeepSpeed comes as source: without compiled operators its wheel is plain Python.
DS_BUILD_OPS=0 python3 -m pip wheel -q --no-deps --no-build-isolation -w "$work" deepspeed==0.19.8
for wheel in "$work"/deepspeed-*.whl; do
  name=$(basename "$wheel" | sed -E 's/-(cp|py)[0-9]+-[^-]+-[^-]+\.whl$/-py3-none-any.whl/')
  cp "$wheel" "$out/a/$name"
done
"${fetch[@]}" -d "$out/a" hjson py-cpuinfo msgpack ninja pydantic pydantic-core typing-inspection \
  annotated-types einops psutil liger-kernel==0.8.5 pyyaml rich fsspec==2026.9.0 filelock
"${fetch[@]}" -d "$out/c" pyarrow==26.0.1
# ray.init needs the first line, ray.data the second; rich and typer of Ray's command are not here.
"${fetch[@]}" -d "$out/b" protobuf jsonschema jsonschema-specifications attrs referencing rpds-py \
  requests urllib3 idna certifi charset-normalizer click packaging \
  pandas python-dateutil six pytz tzdata tensorboardX
"${fetch[@]}" -d "$work" ray==2.60.0
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
            if entry.filename.endswith("RECORD"):
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
