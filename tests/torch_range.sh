#!/usr/bin/env bash
# One end of the range of torch: the wheel beside it in an empty environment, the demo, and the tests of what computes.
#     make test-torch TORCH=2.9.1
# Takes minutes and gigabytes. Numbers are equal to the bit for one version of torch, and to rounding for others.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:?which torch, for example 2.9.1}
place=.cache/torch-$version
[ -d "$place" ] || "${PYTHON:-python3}" -m venv "$place"
"$place/bin/pip" install --quiet "torch==$version" hatchling editables build
rm -rf "$place/wheel"
"$place/bin/pip" wheel --quiet --no-deps --no-build-isolation --wheel-dir "$place/wheel" .
"$place/bin/pip" install --quiet --force-reinstall --no-deps "$place"/wheel/*.whl
# what it needs, without changing the torch that is there
"$place/bin/pip" install --quiet "$place"/wheel/*.whl "torch==$version"
"$place/bin/pip" install --quiet "torch==$version" pytest hypothesis beartype mpmath scipy pandas psutil pyyaml \
    scikit-learn joblib ipython tqdm requests foolbox==3.3.4 transformers==5.23.0 accelerate
"$place/bin/pip" install --quiet --no-deps torchattacks==3.5.1 pyautoattack==0.2.0 nanogcg==0.3.0
(cd "$place" && bin/flatlens demo --out "demo" --force)
OMP_NUM_THREADS=1 "$place/bin/python" -m pytest -q tests/hessian tests/probes tests/attacks tests/victims tests/records \
    tests/measure --ignore tests/measure/test_main_job.py
