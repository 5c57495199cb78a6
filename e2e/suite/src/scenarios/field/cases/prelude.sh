# The start of every case: run as root in a guest with volume group vg0 on /dev/vdb and /dev/vdc and an empty
# /dev/vdd. A case prints a line that starts with WRONG for each failed check, and then exits with 1.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
KUBE=/var/lib/kubelet
start_quarry() { # serves pool `fast` on vg0 (with more settings in $LVM), unless Quarry runs already
  mkdir -p /etc/quarry /run/quarry
  quarry csi identity >/dev/null 2>&1 && return
  printf 'pools:\n  - name: fast\n    lvm: {volumeGroup: vg0%s}\n' "${LVM:-}" >/etc/quarry/pools.yaml
  setsid quarry standalone --config /etc/quarry/pools.yaml --http 127.0.0.1:9808 --view /run/quarry/view.sock \
    >>/var/log/quarry.log 2>&1 </dev/null &
  for _ in $(seq 100); do quarry csi identity >/dev/null 2>&1 && return; sleep 0.1; done
  echo "quarry does not serve"; tail -n 5 /var/log/quarry.log; exit 2
}
create() { # NAME ARGS…: prints the volume's ID
  local name=$1; shift
  quarry csi create "$name" --param pool=fast "$@" -o json | sed -n 's/.*"volume_id": *"\([^"]*\)".*/\1/p'
}
staging() { mkdir -p "$KUBE/plugins/kubernetes.io/csi/local.csi.quarry.dev/$1/globalmount"; echo "$KUBE/plugins/kubernetes.io/csi/local.csi.quarry.dev/$1/globalmount"; }
target() { mkdir -p "$KUBE/pods/$1/volumes/kubernetes.io~csi/$1"; echo "$KUBE/pods/$1/volumes/kubernetes.io~csi/$1/mount"; }
fails() { echo "WRONG: $*"; bad=1; }
# Puts a dm device between /dev/vdc and the group, so that the disk can fail and recover within one guest.
thin_disk2() {
  vgreduce -q vg0 /dev/vdc >/dev/null && pvremove -q /dev/vdc >/dev/null || exit 2
  sectors=$(($(blockdev --getsz /dev/vdc) - 2048))
  dmsetup create disk2 --table "0 $sectors linear /dev/vdc 2048"
  pvcreate -qy /dev/mapper/disk2 >/dev/null; vgextend -q vg0 /dev/mapper/disk2 >/dev/null
}
disk2() { # fail | heal
  case $1 in fail) t="0 $sectors error" ;; heal) t="0 $sectors linear /dev/vdc 2048" ;; esac
  dmsetup suspend --noflush --nolockfs disk2; dmsetup load disk2 --table "$t"; dmsetup resume disk2
}
undo_disk2() {
  vgreduce -q vg0 /dev/mapper/disk2 >/dev/null; pvremove -q /dev/mapper/disk2 >/dev/null; dmsetup remove disk2
  pvcreate -qy /dev/vdc >/dev/null; vgextend -q vg0 /dev/vdc >/dev/null
}
bad=0
