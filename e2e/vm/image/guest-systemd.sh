#!/bin/sh
# Second half of a virtual node's boot where systemd is the first process: gives systemd its units, then becomes systemd.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
. /run/quarry-vm/guest-common

# systemd reads the units of /run before those of the packages.
units=/run/systemd/system
mkdir -p "$units"

# What has nothing to do with storage and only takes time: consoles, timers, measured boot, caches of files that nobody reads.
for unit in getty.target systemd-logind.service systemd-user-sessions.service user.slice uuidd.socket \
    systemd-ask-password-console.path systemd-ask-password-wall.path systemd-firstboot.service systemd-hwdb-update.service \
    systemd-journal-catalog-update.service ldconfig.service systemd-update-done.service systemd-binfmt.service \
    proc-sys-fs-binfmt_misc.automount systemd-pcrmachine.service systemd-pcrphase.service \
    systemd-pcrphase-sysinit.service systemd-tpm2-setup.service systemd-tpm2-setup-early.service \
    systemd-hibernate-clear.service systemd-pstore.service systemd-random-seed.service systemd-sysusers.service \
    systemd-journal-flush.service sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount e2scrub_reap.service \
    e2scrub_all.timer fstrim.timer xfs_scrub_all.timer dpkg-db-backup.timer systemd-tmpfiles-clean.timer; do
    ln -s /dev/null "$units/$unit"
done
# Nor what these find: units for consoles, for partitions of the root disk, for a TPM, for old kinds of scripts.
mkdir -p /run/systemd/system-generators
for generator in debug fstab getty gpt-auto hibernate-resume rc-local run ssh system-update sysv tpm2; do
    ln -s /dev/null "/run/systemd/system-generators/systemd-$generator-generator"
done

cat >"$units/quarry-vm.service" <<'UNIT'
[Unit]
Description=The agent of a virtual node
After=multi-user.target

[Service]
ExecStartPre=udevadm settle
ExecStart=/run/quarry-vm/agent
Restart=always
RestartSec=0
# What the agent starts is a test's own matter: no limit, and nobody ends it with the agent.
KillMode=process
OOMPolicy=continue
TasksMax=infinity
Delegate=yes
Environment=HOME=/root LC_ALL=C.UTF-8
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
UNIT
cat >"$units/quarry-vm.target" <<'UNIT'
[Unit]
Description=A virtual node that has booted
Wants=multi-user.target quarry-vm.service
UNIT
ln -s quarry-vm.target "$units/default.target"

load_modules
start_network
exec /lib/systemd/systemd
