# A new volume gets extents where an md mirror or a foreign volume group started before. Needs mdadm with its
# udev rules.
start_quarry
# The guest keeps them out of udev's folder, because other tests write such signatures.
cp /usr/share/mdadm-rules/*.rules /usr/lib/udev/rules.d/ && udevadm control --reload
assembly() { # on|off: whether udev assembles what it finds
  mkdir -p /run/udev/rules.d; rm -f /run/udev/rules.d/64-md-raid-assembly.rules
  [ "$1" = on ] || : >/run/udev/rules.d/64-md-raid-assembly.rules
  udevadm control --reload
}
taken() { # NAME: udev really takes what lies on the extents; otherwise the case would show nothing
  lvcreate -qyn plain -Wn -Zn -l 16 vg0 >/dev/null 2>&1; udevadm settle; grep -q '^md' /proc/mdstat || fails "$1: udev assembles nothing here"
  assembly off; for md in /dev/md[0-9]*; do [ -b $md ] && mdadm --stop $md >/dev/null 2>&1; done
  udevadm settle; lvremove -qy vg0/plain >/dev/null || fails "$1: the plain volume stays in use"; assembly on
}
free() { vgs --noheadings -o vg_free vg0; }
clean() { # nothing of an earlier try is left on the extents
  lvcreate -qyn wiped -Wy -Zy -l 80 vg0 >/dev/null 2>&1; dd if=/dev/zero of=/dev/vg0/wiped bs=4M oflag=direct status=none 2>/dev/null; udevadm settle
  for md in /dev/md[0-9]*; do [ -b $md ] && mdadm --stop $md >/dev/null 2>&1; done; lvremove -qy vg0/wiped >/dev/null
}
try() { # NAME SCRIPT (with $old, a device of the extents that the next volume gets)
  local name=$1; old=/dev/vg0/old
  clean; lvcreate -qyn old -Wn -Zn -l 16 vg0 >/dev/null 2>&1; udevadm settle; where=$(lvs --noheadings -o seg_pe_ranges vg0/old)
  # Otherwise udev would assemble the mirror as soon as it is stopped.
  assembly off; eval "$2" >/dev/null 2>&1; sync; udevadm settle; lvremove -qy vg0/old >/dev/null || { fails "the preparation left old in use"; cat /proc/mdstat; assembly on; return; }
  assembly on; case $2 in mdadm*) taken "$name" ;; esac
  sleep 5; began=$SECONDS
  for attempt in 1 2 3; do
    said=$(quarry csi create "$name" --param pool=fast --size 64Mi $3 --timeout 40 2>&1) && break; echo "  attempt $attempt: $said"; sleep 3
  done
  id=v1:$storage:$node:$name
  echo "$name: $(echo "$said" | head -n 1), after $((SECONDS - began)) s; extents before:$where, now:$(lvs --noheadings -o seg_pe_ranges "vg0/$name" 2>/dev/null)"
  case $said in volume_id*) ;; *) fails "$name: never made; md: $(grep ^md /proc/mdstat | tr '\n' ';') held by: $(ls /sys/block/$(basename $(readlink -f /dev/vg0/$name))/holders)" ;; esac
  said=$(quarry csi delete "$id" --timeout 40 2>&1); echo "  delete: $said"; case $said in deleted*) ;; *) fails "$name: delete: $said" ;; esac
  for md in /dev/md[0-9]*; do [ -b $md ] && mdadm --stop $md >/dev/null 2>&1; done; vgchange -qan foreign >/dev/null 2>&1
  udevadm settle; sleep 2; quarry csi delete "$id" >/dev/null 2>&1; lvremove -qy "vg0/$name" >/dev/null 2>&1
}
probe=$(create case08probe --size 4Mi --block); storage=$(echo "$probe" | cut -d: -f2) node=$(echo "$probe" | cut -d: -f3); quarry csi delete "$probe" >/dev/null
for version in 1.2 1.0 0.90; do
  md="mdadm --create /dev/md77 --run --level=1 --raid-devices=2 --metadata=$version \$old missing; mdadm --stop /dev/md77"
  for kind in "--fs ext4" --block; do try "case08md${version/./}${kind##*[- ]}" "$md" "$kind"; done
done
try case08lvm 'pvcreate -qy --config "devices/scan_lvs=1" $old; vgcreate -qy --config "devices/scan_lvs=1" foreign $old; lvcreate -qy -an -l 3 -n inner foreign --config "devices/scan_lvs=1"; vgchange -an foreign --config "devices/scan_lvs=1"' "--fs ext4"
try case08btrfs 'mkfs.btrfs -q -f $old' "--fs ext4"
try case08swapblk 'mkswap $old' --block
echo "free at the end:$(free)"; lvs --noheadings vg0
exit $bad
