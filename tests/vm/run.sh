#!/usr/bin/env bash
# Boots Debian's kernel, which has cgroup v2, in QEMU without KVM, and runs suites in it. Two machines share them: a suite looks at the whole of
# its machine, so in each they run one after the other.
# usage: run.sh [SUITE…]    without a name: all that are about what the kernel does
set -euo pipefail
self=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
top=$(realpath "$self/../..")
cache=$top/target/vm
limit_s=3600
# What another kernel and other control groups can change, those that take longest first. The rest is about the API and the command line, on
# the same sandboxes.
suites=(weakened storms faults doctor rootless machine limits exec afterwards isolation crash guarantees disk exhausted attacks shared root_inside)
[ "$#" -eq 0 ] || suites=("$@")
cargo=$(command -v cargo || echo "$HOME/.cargo/bin/cargo")

if [ "$(id -u)" -ne 0 ]; then
    exec sudo -E "$0" "$@"
fi
"$self/image.sh" "$cache"

# Lines of name and program: the suites, and what they start beside `caisson`.
built=$(cd "$top" && "$cargo" test --release --locked --quiet --package caisson-tests --package caisson-native --no-run --message-format=json |
    jq -r 'select(.executable and (.target.kind[0] == "test" or .target.kind[0] == "example")) | .target.name + " " + .executable')
program_of() {
    local found
    found=$(awk -v name="$1" '$1 == name { print $2 }' <<<"$built")
    [ -n "$found" ] || { echo "tests/vm/run.sh: there is no suite or program \`$1\`" >&2; exit 1; }
    echo "$found"
}

work=$(mktemp -d)
machines=()
clean() {
    for machine in "${machines[@]}"; do
        kill "$machine"
    done
    rm -rf "$work"
}
trap clean EXIT

root=$work/root
mkdir "$root"
tar -C "$root" -xf "$cache/root.tar" --exclude=./dev
mkdir -p "$root/dev" "$root/tests"
install -m 755 "$self/init.sh" "$root/sbin/vm-init"
objcopy --strip-debug "$top/target/release/caisson" "$root/tests/caisson"
objcopy --strip-debug "$top/target/release/caisson-probe" "$root/tests/caisson-probe"
mkdir "$root/tests/examples"
objcopy --strip-debug "$(program_of faulty)" "$root/tests/examples/faulty"
for name in "${suites[@]}"; do
    objcopy --strip-debug "$(program_of "$name")" "$root/tests/suite-$name"
done
du -sm "$root" | awk '{ print "The root has " $1 " MiB" }'
truncate -s 6G "$work/disk"
mkfs.ext4 -q -F -O ^has_journal -d "$root" "$work/disk"
rm -rf "$root"

# usage: boot NAME SUITE…
boot() {
    local name=$1
    shift
    echo "Booting $name for $*"
    # There before anybody looks for it.
    : >"$work/$name"
    # What is written to the disk is kept beside it, and goes with the machine. The kernel hands `suites` to the first process.
    timeout "$limit_s" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 6144 -nographic -no-reboot -nic none \
        -kernel "$cache/vmlinuz" -initrd "$cache/initrd.img" -append "console=ttyS0 quiet panic=-1 systemd.unified_cgroup_hierarchy=1 suites=$(IFS=,; echo "$*")" \
        -drive "file=$work/disk,format=raw,if=virtio,cache=unsafe,snapshot=on" </dev/null >"$work/$name" 2>&1 &
    machines+=($!)
}
first=() second=()
for index in "${!suites[@]}"; do
    if [ $((index % 2)) -eq 0 ]; then first+=("${suites[index]}"); else second+=("${suites[index]}"); fi
done
names=(first)
boot first "${first[@]}"
if [ "${#second[@]}" -gt 0 ]; then
    names+=(second)
    boot second "${second[@]}"
fi

failed=0
for index in "${!names[@]}"; do
    name=${names[index]} status=0
    # What it says is shown as it comes.
    tail -n +1 -f --pid="${machines[index]}" "$work/$name"
    wait "${machines[index]}" || status=$?
    unset "machines[index]"
    if [ "$status" -ne 0 ]; then
        echo "tests/vm/run.sh: the $name virtual machine ended with $status (124: after $limit_s s)" >&2
        failed=1
    # The console ends lines with a carriage return.
    elif ! tr -d '\r' <"$work/$name" | grep -qx "VM: all suites passed"; then
        echo "tests/vm/run.sh: not all suites passed in the $name virtual machine" >&2
        failed=1
    fi
done
exit "$failed"
