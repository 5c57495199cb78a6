# A disk returns errors for some seconds, and recovers. Does the pool find it again?
start_quarry; thin_disk2; sleep 5
echo "before: $(quarry csi capacity --param pool=fast | head -n 1)"
disk2 fail; sleep 12; echo "while it fails: $(quarry csi capacity --param pool=fast | head -n 1)"
disk2 heal; pvscan --cache >/dev/null 2>&1
for _ in 1 2 3 4 5; do sleep 12; done; echo "a minute after it has recovered: $(quarry csi capacity --param pool=fast | head -n 1)"
echo "missing disks according to lvm:$(vgs --noheadings -o vg_missing_pv_count vg0)"
said=$(quarry pools --socket /run/quarry/view.sock | tail -n 1)
case $said in *lacks*) fails "lvm has all disks, but quarry still misses one: $said" ;; esac
undo_disk2
exit $bad
