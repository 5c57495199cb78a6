#!/bin/sh
# Second half of a virtual node's boot: makes what a host with systemd would have made before kubelet starts.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root
exec </dev/null >/dev/console 2>&1

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

modprobe -a dm-mod dm-raid raid0 raid1 raid10 raid456 dm-snapshot dm-thin-pool dm-flakey dm-crypt loop \
    xfs btrfs virtio_net virtio_scsi sd_mod nvme

/lib/systemd/systemd-udevd --daemon
udevadm trigger --type=subsystems --action=add
udevadm trigger --type=devices --action=add
udevadm settle

hostname "$(cat /etc/hostname 2>/dev/null || echo quarry-vm)"
ip link set lo up
for nic in /sys/class/net/e*; do
    ip link set "${nic##*/}" up
    ip addr add 10.0.2.15/24 dev "${nic##*/}"
done

echo "quarry-vm: ready"
# dash's wait also reaps what is orphaned to this process, the first one.
while :; do
    /run/quarry-vm/agent &
    wait $!
    echo "quarry-vm: the agent ended ($?), starting it again"
done
