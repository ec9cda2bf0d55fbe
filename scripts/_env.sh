# shellcheck shell=bash
# Sourced by the other scripts:
#
#   environment FOLDER CONSTRAINTS EXTRAS [REQUIREMENT...]
#
# makes the virtual environment FOLDER of this clone with the package in it, or finds it ready, and sets $python.
# PYTHON in the environment chooses the Python to make it from.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# All talk goes to stderr: stdout belongs to what the script runs.
say() { printf '%s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
minutes() { printf '%d:%02d min' $(($1 / 60)) $(($1 % 60)); }

# version_of PYTHON: prints 3.11, or fails. A name on PATH proves nothing (pyenv leaves dead ones): it has to run.
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

supported() { [ "$1" = 3.11 ] || [ "$1" = 3.12 ]; }

# Sets $base, a Python to make environments from, and its $version.
pick_python() {
    local candidate candidates=(python3.11 python3.12 python3) seen=
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if ! version=$(version_of "$candidate"); then
            seen+="    $candidate: not found, or does not run"$'\n'
        elif supported "$version"; then
            base=$candidate
            return
        else
            seen+="    $candidate: Python $version"$'\n'
        fi
    done
    fail "environment: this needs Python 3.11 or 3.12. Looked at:
${seen}Install one of the two, or say where it is: PYTHON=/path/to/python3.12 $0"
}

# What the environment depends on. cksum is on every system, and nobody is out to forge it.
fingerprint() {
    printf '%s %s\n' "$({ echo "$version" "$@"; cd "$root" && cat setup.cfg pyproject.toml "$constraints"; } | cksum)" "$root"
}

# $venv/krs-state holds the fingerprint of what was installed, or "installing" while at it, so that a killed
# install never looks whole. An environment made by hand has none.
mark_installing() { mkdir -p "$venv" && echo installing >"$venv/krs-state"; }
state() { cat "$venv/krs-state" 2>/dev/null; }

current() { [ "$(version_of "$python")" = "$version" ] && [ "$(state)" = "$(fingerprint "$@")" ]; }

# Can what is in $venv be installed into?
sound() {
    case $(state) in
        '' | *" $root") ;;  # by hand, or by us for this place
        *) return 1 ;;      # killed midway, or copied here from another place
    esac
    [ "$(version_of "$python")" = "$version" ] && "$python" -m pip --version >/dev/null 2>&1
}

# watched LABEL COMMAND...: runs it with its output in $log, and shows that time passes.
watched() {
    local label=$1 start=$SECONDS job seconds
    shift
    "$@" >>"$log" 2>&1 &
    job=$!
    # A job in the background does not hear Ctrl-C.
    trap 'kill "$job" 2>/dev/null; say; say "environment: interrupted; the same command starts it again."; exit 130' INT TERM
    while kill -0 "$job" 2>/dev/null; do
        sleep 1
        seconds=$((SECONDS - start))
        if [ -t 2 ]; then
            printf '\r\033[K    %s, %s  %.45s' "$label" "$(minutes $seconds)" "$(tail -n 1 "$log")" >&2
        elif [ $((seconds % 30)) = 0 ]; then
            say "    $label, $(minutes $seconds)"
        fi
    done
    [ ! -t 2 ] || printf '\r\033[K' >&2
    trap - INT TERM
    wait "$job"
}

# run_pip PYTHON ARGUMENT...: up to three times, for networks drop.
run_pip() {
    local try scratch=${log%/*}/krs-tmp
    for try in 1 2 3; do
        # Not /tmp, which may be small: pip unpacks 2.6 GB, and a pip that is killed leaves them lying.
        rm -rf "$scratch"
        mkdir "$scratch"
        printf '\n(try %s) pip %s\n' "$try" "${*:2}" >>"$log"
        if watched "pip, try $try of 3" env TMPDIR="$scratch" \
            "$1" -m pip --disable-pip-version-check --no-input "${@:2}" --progress-bar off; then
            rm -rf "$scratch"
            return
        fi
        say "    pip failed (try $try of 3)"
        [ "$try" = 3 ] || sleep $((try * 3))
    done
    return 1
}

pip_failed() {
    say "environment: $1. The last lines of pip's output:"
    tail -n 12 "$log" | sed 's/^/    | /' >&2
    say "All of it is in $log"
    if grep -qiE 'connection (broken|refused|reset|aborted)|timed out|name resolution' "$log"; then
        # Versions that it cannot see look to pip like versions that conflict, and it says so.
        say "The package index did not answer; if pip speaks of conflicts above, that is why."
    fi
    fail "Run the same command again when that is mended: pip keeps the packages it has downloaded."
}

no_pip() {
    local sudo="sudo "
    [ "$(id -u)" != 0 ] || sudo=
    if command -v apt-get >/dev/null; then
        fail "environment: $base (Python $version) has neither a working venv nor pip. This one command mends it:
    ${sudo}apt-get install -y python$version-venv"
    fi
    fail "environment: $base (Python $version) has neither a working venv nor pip:
$1
Install pip for it (the package is often called python3-pip), then run the same command again."
}

virtualenv() { PYTHONPATH=$root/.venv-tools${PYTHONPATH:+:$PYTHONPATH} "$base" -m virtualenv "$@"; }

# Out of the way at once, then deleted (which takes a while): what is half deleted must not look like an environment.
discard() { rm -rf "$venv.old" && mv "$venv" "$venv.old" && rm -rf "$venv.old"; }

create() {
    local trouble
    mark_installing
    trouble=$("$base" -m venv "$venv" 2>&1) && return
    # Debian, for one, packs the part of venv that installs pip separately.
    discard
    mark_installing
    if ! virtualenv --version >/dev/null 2>&1; then
        "$base" -m pip --version >/dev/null 2>&1 || no_pip "$trouble"
        say "    '$base -m venv' does not work here: getting virtualenv instead"
        mkdir -p "$root/.venv-tools"
        log=$root/.venv-tools/pip.log
        : >"$log"
        run_pip "$base" install --upgrade --target "$root/.venv-tools" -c "$root/$constraints" virtualenv \
            || pip_failed "virtualenv could not be installed"
    fi
    trouble=$(virtualenv "$venv" 2>&1) || fail "environment: virtualenv failed:
$trouble"
}

# install EXTRAS [REQUIREMENT...]
install() {
    log=$venv/krs-install.log
    : >"$log"
    mark_installing
    # setuptools first, then no build isolation: the pinned one builds the package, and nothing is fetched for it.
    if ! { run_pip "$python" install -c "$root/$constraints" setuptools wheel \
        && run_pip "$python" install -c "$root/$constraints" --no-build-isolation -e "${root}[$1]" "${@:2}"; }; then
        # pip fetches everything before it changes anything. If it finished all that it began to install,
        # the environment is as it was (somebody's own, perhaps): only the rest is missing.
        [ "$(grep -c '^Installing collected' "$log")" != "$(grep -c '^Successfully installed' "$log")" ] \
            || rm "$venv/krs-state"
        pip_failed "installing into $folder failed"
    fi
    fingerprint "$@" >"$venv/krs-state"
}

environment() {
    local folder=$1 constraints=$2 base='' version venv=$root/$1 start=$SECONDS log
    python=$venv/bin/python
    shift 2

    # An environment keeps its Python until another is asked for.
    version=$(version_of "$python") || version=
    if [ -n "${PYTHON:-}" ] || ! supported "$version"; then pick_python; fi
    if current "$@"; then return; fi

    # One script at a time; the one that waited finds it done.
    if command -v flock >/dev/null; then
        exec 9>"$root/$folder.lock"
        flock -n 9 || { say "    another script is installing into $folder; waiting for it"; flock 9; }
        if current "$@"; then exec 9>&-; return; fi
    fi
    if [ -e "$venv" ] && ! sound; then
        say "    $folder is broken, half made, moved or of another Python: it is made anew"
        discard
    fi
    if [ -e "$venv" ]; then
        say "    updating $folder: it was made by hand or not finished, or setup.cfg or $constraints has changed"
    else
        say "    installing into $folder: about 1 minute plus 0.7 GB of download; 2.6 GB on disk"
        [ -n "$base" ] || pick_python
        create
    fi
    install "$@"
    exec 9>&-
    say "    ready after $(minutes $((SECONDS - start)))"
}

# step WORDS: the next of $steps parts begins.
step=0 steps=1
step() { step=$((step + 1)); say "[$step/$steps] $*"; }

# What scripts/demo and scripts/test share, so that one installation serves both.
shared_environment() { environment .venv scripts/constraints.txt test,demo,micro,docs ruff mypy; }
