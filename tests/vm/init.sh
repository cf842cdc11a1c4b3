#!/bin/bash
# The first process of the virtual machine of `make test-vm`: mounts what a system has, runs the suites, says how they went, ends the machine.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc 2>/dev/null
mount -t sysfs sysfs /sys 2>/dev/null
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
ip link set lo up
hostname vm
ulimit -n 65536
export HOME=/root CAISSON_PROGRAM=/tests/caisson CAISSON_SLOWER="${CAISSON_SLOWER:-8}" RUST_BACKTRACE=1
# What image.sh leaves out on purpose, to keep the image small. All else that a suite asks for must be there.
export CAISSON_WITHOUT=javac,chromium
# gVisor is the same on any Linux, and too slow without KVM.
export CAISSON_TEST_BACKENDS=native,oci:runc,oci:crun
# Data directories are on the disk: before Linux 6.3 a tmpfs is none for images.
export TMPDIR=/var/tmp
cd /tests || poweroff -f
echo "VM: Linux $(uname -r), cgroup controllers: $(cat /sys/fs/cgroup/cgroup.controllers)"
failed=0
for suite in /tests/suite-*; do
    begin=$SECONDS
    "$suite" --test-threads=1 </dev/null || failed=$((failed + 1))
    echo "VM: ${suite#/tests/suite-} took $((SECONDS - begin)) s"
done
if [ "$failed" -eq 0 ]; then
    echo "VM: all suites passed"
else
    echo "VM: $failed suites failed"
fi
sync
echo o > /proc/sysrq-trigger
sleep 60
