#!/usr/bin/env bash
# Guess: pip-audit fails, or at least exits with an error, when it could audit none of the packages.
# Seen (pip-audit 2.10.1): where the vulnerability service answers 404 for a package, as PyPI's does for
#   a private one, and as every index does that mirrors the simple pages alone, the package is listed as
#   skipped, the last line is "No known vulnerabilities found", and the exit code is 0. Of a lock of 112
#   packages behind such a mirror, 112 were skipped, exit code 0.
# Hurt: a green audit in CI that never looked at anything. Give --strict: exit code 1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "pip-audit==2.10.1"
cd "$work"
# A package of one's own, that PyPI does not have, with the hash of its file.
printf 'a-private-package-of-detox-jax==1.0 --hash=sha256:%064d\n' 0 >requirements.txt
audit() {
  "$work/venv/bin/pip-audit" --require-hashes --disable-pip --progress-spinner off \
    --vulnerability-service pypi --requirement requirements.txt "$@" >out 2>&1
}
"$work/venv/bin/pip-audit" --version
audit && code=0 || code=$?
grep -q "could not be audited" out
grep -q "No known vulnerabilities found" out
[ "$code" = 0 ] || { cat out; echo "changed: exit code $code without --strict"; exit 1; }
audit --strict && strict=0 || strict=$?
[ "$strict" = 1 ] || { cat out; echo "changed: exit code $strict with --strict"; exit 1; }
echo "as found: nothing was audited, and the exit code is $code; with --strict it is $strict"
