#!/usr/bin/env bash
# Runs the signed peer and a real homeserver against Vestibule: one command, one closing line.
#
#   tests/interop/run.sh                 everything
#   tests/interop/run.sh first_knock     only what is named: selftest first_knock bad_requests concurrency real_peers
#
# VESTIBULE_BIN  the server to test; without it the release build is made and used
# PYTHON         an interpreter that has requirements.txt installed, for real_peers also
#                requirements-synapse.txt; without it a virtual environment is made under target/
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
export PYTHONDONTWRITEBYTECODE=1

if [ "$#" -eq 0 ]; then
    set -- selftest first_knock bad_requests concurrency real_peers
fi

if [ -z "${PYTHON:-}" ]; then
    environment="$repository/target/interop-venv"
    if ! cmp -s "$here/requirements.txt" "$environment/installed.txt"; then
        python3 -m venv --clear "$environment"
        "$environment/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
        cp "$here/requirements.txt" "$environment/installed.txt"
    fi
    # Synapse is large, so it comes only when it is asked for.
    if [[ " $* " == *" real_peers "* ]] \
        && ! cmp -s "$here/requirements-synapse.txt" "$environment/installed-synapse.txt"; then
        "$environment/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
            -r "$here/requirements.txt" -r "$here/requirements-synapse.txt"
        cp "$here/requirements-synapse.txt" "$environment/installed-synapse.txt"
    fi
    PYTHON="$environment/bin/python"
fi

if [ -z "${VESTIBULE_BIN:-}" ]; then
    (cd "$repository" && cargo build --release --quiet)
    VESTIBULE_BIN="${CARGO_TARGET_DIR:-$repository/target}/release/vestibule"
fi
export VESTIBULE_BIN

passed=0
failed=0
output=$(mktemp)
trap 'rm -f "$output"' EXIT
for part in "$@"; do
    echo
    echo "=== $part"
    status=0
    "$PYTHON" "$here/$part.py" 2>&1 | tee "$output" || status=$?
    # The last line of every part is "N passed, N failed"; a part without it has failed as a whole.
    if [[ "$(tail -n 1 "$output")" =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
        passed=$((passed + BASH_REMATCH[1]))
        failed=$((failed + BASH_REMATCH[2]))
        if [ "$status" -ne 0 ] && [ "${BASH_REMATCH[2]}" -eq 0 ]; then
            failed=$((failed + 1))
        fi
    else
        failed=$((failed + 1))
    fi
done

echo
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
