# Puts a dm device between /dev/vdc and the group, so that the disk can fail and heal within one guest.
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
# Not in the list: a disk answers with errors for some seconds, and is well again. Does the pool find it again?
start_quarry; thin_disk2; sleep 5
echo "before: $(quarry csi capacity --param pool=fast | head -n 1)"
disk2 fail; sleep 12; echo "while it fails: $(quarry csi capacity --param pool=fast | head -n 1)"
disk2 heal; pvscan --cache >/dev/null 2>&1
for _ in 1 2 3 4 5; do sleep 12; done; echo "a minute after it is well again: $(quarry csi capacity --param pool=fast | head -n 1)"
echo "missing disks, says lvm:$(vgs --noheadings -o vg_missing_pv_count vg0)"
said=$(quarry pools --socket /run/quarry/view.sock | tail -n 1)
case $said in *lacks*) fails "lvm has all disks, and quarry goes on: $said" ;; esac
undo_disk2
exit $bad
