# A disk under one leg of a raid1 fails while the volume is written, and answers again a moment later.
start_quarry; thin_disk2
id=$(create case04 --size 100Mi --fs ext4 --param layout=raid1); stage=$(staging case04)
quarry csi stage "$id" --fs ext4 --staging-path "$stage" >/dev/null
disk2 fail; dd if=/dev/urandom of="$stage/data" bs=1M count=10 conv=fsync status=none; disk2 heal
# Quarry's cached state is not under test here (see case 90): restart it.
kill "$(pidof quarry)"; while pidof quarry >/dev/null; do sleep 0.2; done; pvscan --cache >/dev/null 2>&1; start_quarry; sleep 3
echo "lvm: $(lvs --noheadings -o lv_health_status vg0/case04); missing disks:$(vgs --noheadings -o vg_missing_pv_count vg0); kernel: $(dmsetup status vg0-case04)"
said=$(quarry volumes --problems --socket /run/quarry/view.sock); echo "quarry volumes --problems: $said"
case $said in *case04*) ;; *) fails "one leg is out of date ('D' above, and no longer written), and quarry calls the volume whole" ;; esac
quarry doctor --socket /run/quarry/view.sock | tail -n 1
echo "--- what the manual advises: vgchange --refresh"
vgchange --refresh vg0; sleep 5; echo "lvm: $(lvs --noheadings -o lv_health_status vg0/case04); kernel: $(dmsetup status vg0-case04)"
quarry csi unstage "$id" --staging-path "$stage" >/dev/null; quarry csi delete "$id" >/dev/null
undo_disk2
exit $bad
