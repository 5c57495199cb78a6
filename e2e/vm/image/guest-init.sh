#!/bin/sh
# Second half of a virtual node's boot, and its first process from then on: makes what a host with systemd would have made
# before kubelet starts.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root
exec </dev/null >/dev/console 2>&1
. /run/quarry-vm/guest-common

mkdir -p /dev/pts /dev/shm /run/lock /run/lvm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --make-rshared /
mount --bind /var/lib/kubelet /var/lib/kubelet
mount --make-rshared /var/lib/kubelet

# Debian's udev rule activates a complete volume group through systemd-run. This stand-in does the same without systemd.
if [ ! -e /usr/bin/systemd-run ]; then
    cat >/usr/bin/systemd-run <<'RUN'
#!/bin/sh
while :; do
    case $1 in
        --property | --unit | -p | -u) shift 2 ;;
        -*) shift ;;
        *) break ;;
    esac
done
setsid "$@" </dev/null >/dev/null 2>&1 &
RUN
    chmod +x /usr/bin/systemd-run
fi

load_modules

/lib/systemd/systemd-udevd --daemon
udevadm trigger --type=subsystems --action=add
udevadm trigger --type=devices --action=add
udevadm settle

hostname "$(cat /etc/hostname 2>/dev/null || echo quarry-vm)"
start_network

echo "quarry-vm: ready"
# dash's wait also reaps what is orphaned to this process, the first one.
while :; do
    /run/quarry-vm/agent &
    wait $!
    echo "quarry-vm: the agent ended ($?), starting it again"
done
