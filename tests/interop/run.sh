#!/usr/bin/env bash
# Runs the signed peer and a real homeserver against Vestibule: one command, one closing line.
#
#   tests/interop/run.sh                 everything
#   tests/interop/run.sh first_knock     only what is named: selftest first_knock bad_requests concurrency
#                                        two_vestibules real_peers clients desk
#
# VESTIBULE_BIN  the server to test; without it the release build is made and used
# PYTHON         an interpreter that has requirements.txt installed, for real_peers and clients also
#                requirements-synapse.txt, for clients also requirements-clients.txt, for desk also
#                requirements-browser.txt; without it a virtual environment is made under target/
# INTEROP_JS     a directory with person.mjs and its packages, for clients, which also needs node;
#                without it npm makes one under target/
#
# desk needs Chromium and its driver (Debian: chromium, chromium-driver).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
export PYTHONDONTWRITEBYTECODE=1

if [ "$#" -eq 0 ]; then
    set -- selftest first_knock bad_requests concurrency two_vestibules real_peers clients desk
fi

# Whether one of these parts is going to run: large packages come only when they are asked for.
runs() {
    local part
    for part in "$@"; do
        [[ " $parts " == *" $part "* ]] && return
    done
    return 1
}

parts="$*"
if [ -z "${PYTHON:-}" ]; then
    environment="$repository/target/interop-venv"
    wanted=(requirements.txt)
    if runs real_peers clients; then wanted+=(requirements-synapse.txt); fi
    if runs clients; then wanted+=(requirements-clients.txt); fi
    if runs desk; then wanted+=(requirements-browser.txt); fi
    [ -x "$environment/bin/python" ] || python3 -m venv --clear "$environment"
    for list in "${wanted[@]}"; do
        if ! cmp -s "$here/$list" "$environment/$list"; then
            "$environment/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
                -r "$here/$list"
            cp "$here/$list" "$environment/$list"
        fi
    done
    PYTHON="$environment/bin/python"
fi

if runs clients && [ -z "${INTEROP_JS:-}" ]; then
    INTEROP_JS="$repository/target/interop-js"
    mkdir -p "$INTEROP_JS"
    if ! cmp -s "$here/js/package-lock.json" "$INTEROP_JS/installed.json"; then
        cp "$here"/js/package.json "$here"/js/package-lock.json "$here"/js/.npmrc "$INTEROP_JS"
        (cd "$INTEROP_JS" && npm ci --silent --ignore-scripts)
        cp "$here/js/package-lock.json" "$INTEROP_JS/installed.json"
    fi
    # A module finds its packages from where it lies.
    cp "$here/js/person.mjs" "$INTEROP_JS"
fi
export INTEROP_JS="${INTEROP_JS:-}"

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
