# The operator's own lvm commands on volumes: pvmove, lvconvert, a cache, vgsplit. Needs a third disk,
# /dev/vdd.
start_quarry
pvcreate -qy /dev/vdd >/dev/null; vgextend -q vg0 /dev/vdd >/dev/null; sleep 11
ask() { echo "  $1: $(shift; "$@" 2>&1 | head -n 1 | cut -c1-500)"; }
all() { # ID NAME MOUNT: what an operator and kubelet see
  local id=$1 name=$2 stage=$3
  ask "stage again" quarry csi stage "$id" --fs ext4 --staging-path "$stage"
  ask unstage quarry csi unstage "$id" --staging-path "$stage"
  ask stage quarry csi stage "$id" --fs ext4 --staging-path "$stage"
  ask stats quarry csi stats "$id" --path "$stage"
  quarry csi unstage "$id" --staging-path "$stage" >/dev/null
  ask create quarry csi create case22new --size 16Mi --fs ext4 --param pool=fast; quarry csi delete "${id%"$name"}case22new" >/dev/null
  quarry volumes --socket /run/quarry/view.sock | sed 's/^/  /'
}
refused() { # ID WHAT: a delete must not be INTERNAL, and must say what keeps it
  said=$(quarry csi delete "$1" 2>&1); echo "  delete: $said"; case $said in INTERNAL*) fails "delete while $2 is INTERNAL" ;; esac
  if [ "${said#deleted}" = "$said" ]; then case $said in *$2*) ;; *) fails "the answer does not speak of $2" ;; esac; fi
}
make() { id=$(create "$1" --size 96Mi --fs ext4 "${@:2}"); stage=$(staging "$1"); quarry csi stage "$id" --fs ext4 --staging-path "$stage" >/dev/null; echo precious >"$stage/data"; sync; }
on() { lvs --noheadings -o seg_pe_ranges "vg0/$1" | grep -o '/dev/[a-z/]*' | head -n 1; }
echo "=== (a) pvmove of a linear volume runs"; id=$(create case22l --size 800Mi --fs ext4); stage=$(staging case22l)
quarry csi stage "$id" --fs ext4 --staging-path "$stage" >/dev/null; from=$(on case22l)
setsid pvmove -i 60 -n case22l "$from" /dev/vdd >/tmp/pvmove 2>&1 </dev/null & mover=$!
until lvs -a vg0 2>/dev/null | grep -q pvmove0; do sleep 0.1; done
echo "  $(lvs -a --noheadings -o lv_name,lv_attr,copy_percent vg0 | tr '\n' ';')"; ask "stage again, while it runs" quarry csi stage "$id" --fs ext4 --staging-path "$stage"; ask stats quarry csi stats "$id" --path "$stage"
echo "=== (b) its lvm is killed"; kill -9 $mover; lvs -a --noheadings -o lv_name,lv_attr,copy_percent vg0; all "$id" case22l "$stage"; refused "$id" pvmove; lvs -a --noheadings -o lv_name,lv_attr vg0
pvmove -i 1 >/dev/null 2>&1; lvs --noheadings -o lv_name,devices vg0; sleep 5
quarry csi delete "$id"
echo "=== (d) lvconvert to raid1"; make case22d
lvconvert -qy --type raid1 -m1 --config 'activation/raid_region_size=512' vg0/case22d >/dev/null; sleep 5; lvs -a --noheadings -o lv_name,lv_attr,sync_percent vg0; all "$id" case22d "$stage"
quarry csi delete "$id"
echo "=== (e) a write cache"; make case22e; quarry csi unstage "$id" --staging-path "$stage" >/dev/null
lvcreate -qyn fastpart -l 10 vg0 /dev/vdd >/dev/null; lvchange -an vg0/fastpart vg0/case22e
if lvconvert -qy --type writecache --cachevol fastpart vg0/case22e >/dev/null; then
  sleep 5; lvs -a --noheadings -o lv_name,lv_attr,segtype vg0; all "$id" case22e "$stage"
  quarry csi stage "$id" --fs ext4 --staging-path "$stage" >/dev/null; grep -q precious "$stage/data" || fails "the file is gone"; quarry csi unstage "$id" --staging-path "$stage" >/dev/null
  said=$(quarry csi delete "$id" 2>&1); echo "  delete: $said"; lvs -a --noheadings vg0; lvs vg0/fastpart >/dev/null 2>&1 || echo "  the operator's cache volume went with it"
else echo "  not tried: this kernel or lvm cannot"; quarry csi delete "$id"; fi
lvremove -qy vg0/fastpart >/dev/null 2>&1
echo "=== (f) vgsplit"; make case22f; quarry csi unstage "$id" --staging-path "$stage" >/dev/null; lvchange -an vg0/case22f; from=$(on case22f)
vgsplit -q vg0 vgsplit "$from" >/dev/null; sleep 11; vgs --noheadings
ask stage quarry csi stage "$id" --fs ext4 --staging-path "$stage"; quarry csi unstage "$id" --staging-path "$stage" >/dev/null
said=$(quarry csi delete "$id" 2>&1); echo "  delete: $said"; case $said in deleted*) lvs vgsplit/case22f >/dev/null 2>&1 && fails "delete is OK, but the volume is in vgsplit" ;; esac
ask create-again quarry csi create case22f --size 96Mi --fs ext4 --param pool=fast
quarry csi list | grep case22f
lvremove -qy vgsplit/case22f >/dev/null; vgmerge -q vg0 vgsplit >/dev/null; sleep 11; quarry csi list -o json | sed -n 's/.*"volume_id": *"\([^"]*case22[^"]*\)".*/\1/p' | while read -r i; do quarry csi delete "$i"; done
lvs -a vg0; vgreduce -q vg0 /dev/vdd >/dev/null; pvremove -q /dev/vdd >/dev/null
exit $bad
