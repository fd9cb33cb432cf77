# Shared by the install scripts in this folder: `source "$(dirname "$0")/common.sh"`.
#
# Every tool gets one folder, `$CACHE/<tool>-<version>/`, that exists only when it is whole: `install_tool NAME FUNCTION`
# calls FUNCTION with an empty scratch folder, and renames that folder into place when it succeeded. A second run, and a
# run at the same moment in another process, does nothing. A broken install is repaired by deleting its folder.
# The scripts print one line on standard output: the folder. All else goes to standard error.
set -euo pipefail

CACHE=${STRONGROOM_CACHE:-$HOME/.cache/strongroom}
mkdir -p "$CACHE"

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# Runs a command as root: as it is when we are root, else through sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else die "needs root or sudo: $*"; fi
}

# install_tool NAME FUNCTION: installs into $CACHE/NAME unless it is there, prints the folder.
install_tool() {
    local name=$1 build=$2 final=$CACHE/$1 scratch started
    if [ ! -d "$final" ]; then
        exec 9>"$CACHE/.$name.lock"
        flock 9
        if [ ! -d "$final" ]; then
            started=$(date +%s)
            say "installing $name …"
            # Beside its final place, so that the last step is a rename within one file system.
            scratch=$(mktemp -d "$CACHE/.$name.XXXXXX")
            chmod 755 "$scratch"
            # In a subshell with `set -e` of its own: `if`/`||` would switch it off inside the function.
            set +e
            (set -e; "$build" "$scratch") >&2
            local status=$?
            set -e
            if [ $status != 0 ]; then
                rm -rf "$scratch"
                die "installing $name failed (exit $status)"
            fi
            mv -T "$scratch" "$final"
            say "installed $name in $(($(date +%s) - started)) s"
        fi
        flock -u 9
        exec 9>&-
    fi
    printf '%s\n' "$final"
}

# The mirror this machine's own apt uses, so that a closed network with a mirror of its own works too.
apt_mirror() {
    local uri
    uri=$(awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/*.sources 2>/dev/null || true)
    [ -n "$uri" ] || uri=$(awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^https?:/) { print $i; exit } }' \
        /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true)
    [ -n "$uri" ] || die "no Debian mirror found in /etc/apt; this script needs a Debian machine"
    printf '%s\n' "$uri"
}

# debian_unpack SUITE PACKAGE DIR [libraries]: downloads one package of another Debian release by lists of its own (the
# machine's own lists and packages stay as they are) and unpacks it into DIR; with `libraries` also every library package
# it needs, down to the C library. Needs no root.
debian_unpack() {
    local suite=$1 package=$2 dir=$3 libraries=${4:-} work options key deb
    local -a packages=("$package")
    work=$(mktemp -d)
    mkdir -p "$work/lists/partial" "$work/archives/partial"
    key=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -r "$key" ] || die "$key is missing; install debian-archive-keyring"
    echo "deb [signed-by=$key] $(apt_mirror) $suite main" >"$work/sources.list"
    options=(-o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$work/lists"
        -o "Dir::Cache=$work" -o "Dir::Cache::Archives=$work/archives" -o "APT::Sandbox::User=$(id -un)"
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false)
    apt-get -q=2 "${options[@]}" update
    if [ "$libraries" = libraries ]; then
        # Programs it asks for, and what those need, are left out: only what the loader will look for.
        mapfile -t -O 1 packages < <(apt-cache "${options[@]}" depends --important "$package" |
            awk '$1 == "Depends:" && $2 ~ /^(lib|zlib)/ { print $2 }' |
            xargs apt-cache "${options[@]}" depends --recurse --important | grep -E '^(lib|zlib)' | sort -u)
    fi
    (cd "$work" && apt-get -q=2 "${options[@]}" download "${packages[@]}")
    for deb in "$work"/*.deb; do dpkg -x "$deb" "$dir"; done
    rm -rf "$work"
}

# python_packages DIR PACKAGE…: these packages and what they need, in a folder for PYTHONPATH (unlike a virtual environment
# it may be renamed, and needs no extra Debian package).
python_packages() {
    local dir=$1
    shift
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-input --target "$dir" "$@"
}
