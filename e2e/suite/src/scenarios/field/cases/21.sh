# (b) a disk extended without pvresize, (a) with it, (c) a disk that is now smaller than in lvm's metadata.
start_quarry
vgreduce -q vg0 /dev/vdc >/dev/null && pvremove -q /dev/vdc >/dev/null || exit 2
sectors=$(($(blockdev --getsz /dev/vdc) - 2048))
resize() { dmsetup suspend disk3; dmsetup load disk3 --table "0 $1 linear /dev/vdc 2048"; dmsetup resume disk3; udevadm settle; }
dmsetup create disk3 --table "0 $((sectors / 2)) linear /dev/vdc 2048"; pvcreate -qy /dev/mapper/disk3 >/dev/null; vgextend -q vg0 /dev/mapper/disk3 >/dev/null
room() { quarry csi capacity --param pool=fast | sed -n 1p; }
sleep 11; echo "before: $(room)"
resize $sectors; sleep 11; echo "(b) grown, no pvresize: $(room)"; quarry doctor --socket /run/quarry/view.sock | grep -i -m1 'pvresize\|grown\|larger' || echo "    doctor does not report it"
pvresize -q /dev/mapper/disk3 >/dev/null; sleep 10; echo "(a) after pvresize: $(room)"
id=$(create case21a --size 32Mi --fs ext4)
lvcreate -qyn filler -Wn -Zn -l 100%PVS vg0 /dev/vdb >/dev/null
resize $((sectors / 2)); sleep 11; echo "(c) half as large: $(room)"; pvs 2>&1 | head -n 3
echo "ready: $(exec 3<>/dev/tcp/127.0.0.1/9808; printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3; sed -n '/^\r$/,$p' <&3 | tail -n +2)"
for n in 1 2 3; do
  said=$(quarry csi create case21c$n --size 300Mi --fs ext4 --param pool=fast 2>&1); echo "create of 300Mi, number $n: $said"
  case $said in INTERNAL*) fails "INTERNAL, where it should be RESOURCE_EXHAUSTED with the reason" ;; esac
  left=$(lvs --noheadings -o lv_name,lv_active,lv_tags,seg_pe_ranges vg0 2>/dev/null | grep case21c$n); case $said in volume_id*) ;; *) [ -z "$left" ] || fails "left behind: $left" ;; esac
done
echo "after it: $(room)"; quarry doctor --socket /run/quarry/view.sock | head -n 3
echo "--- cleaning up"
resize $sectors; sleep 11
for i in $(quarry csi list -o json | sed -n 's/.*"volume_id": *"\([^"]*case21[^"]*\)".*/\1/p'); do quarry csi delete "$i"; done
lvremove -qy vg0/filler >/dev/null; vgreduce -q vg0 /dev/mapper/disk3 >/dev/null; pvremove -q /dev/mapper/disk3 >/dev/null; dmsetup remove disk3
pvcreate -qy /dev/vdc >/dev/null; vgextend -q vg0 /dev/vdc >/dev/null
exit $bad
