# raid1 with fragmented free space on both disks: does each copy get its own disk?
start_quarry
fill() { lvcreate -qyn "$1" -Wn -Zn -l "$2" vg0 "$3" >/dev/null || exit 2; }
try() { # NAME SIZE LAYOUT…: creates it, and looks where its legs lie
  local name=$1 size=$2; shift 2
  echo "--- $name, free: $(pvs --noheadings --segments -o pv_name,pvseg_start,pvseg_size,lv_name /dev/vdb /dev/vdc | awk 'NF==3{printf "%s %s+%s; ", $1, $2, $3}')"
  said=$(quarry csi create "$name" --param pool=fast --size "$size" --fs ext4 "$@" 2>&1) || { echo "$said"; lvs --noheadings vg0 | grep "$name"; return; }
  lvs -a --noheadings -o lv_name,seg_pe_ranges vg0 | grep "${name}_r"
  shared=$(lvs -a --noheadings -o lv_name,seg_pe_ranges --segments vg0 | grep -o "${name}_rimage_[0-9].*" | sed 's/[]:]/ /g' | awk '{print $2, $1}' | sort -u | awk '{n[$1]++} END {for (d in n) if (n[d] > 1) print d}')
  [ -z "$shared" ] || fails "$name: copies share the disk $shared"
  quarry csi delete "$(quarry csi list -o json | sed -n "s/.*\"volume_id\": *\"\([^\"]*:$name\)\".*/\1/p")" >/dev/null
}
fill a1 5 /dev/vdb:25-29; fill a2 10 /dev/vdb:40-49; fill a3 200 /dev/vdb:55-254
fill b1 10 /dev/vdc:20-29; fill b2 205 /dev/vdc:50-254
sleep 11
try case09a 120Mi --param layout=raid1
try case09b 100Mi --param layout=raid1
try case09c 140Mi --param layout=raid1
lvremove -qy vg0/a1 vg0/a2 vg0/a3 vg0/b1 vg0/b2 >/dev/null
# Many other fragments, at random (always the same).
RANDOM=7
for round in $(seq 8); do
  for disk in /dev/vdb /dev/vdc; do
    at=0; n=0
    while [ $at -lt 255 ]; do
      free=$((RANDOM % 28 + 1)); used=$((RANDOM % 40 + 1)); start=$((at + free)); end=$((start + used - 1)); [ $end -gt 254 ] && end=254
      [ $start -le 254 ] && { lvcreate -qyn "f$round-${disk##*/}-$n" -Wn -Zn -l $((end - start + 1)) vg0 "$disk:$start-$end" >/dev/null || break; }
      at=$((end + 1)); n=$((n + 1))
    done
  done
  sleep 5
  try case09r$round 200Mi --param layout=raid1
  lvremove -qy $(lvs --noheadings -o lv_full_name vg0 | grep "/f$round-") >/dev/null
done
exit $bad
