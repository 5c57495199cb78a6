# Lines in the host's lvm.conf that an operator may have there. /etc/lvm/lvmlocal.conf takes precedence over lvm.conf.
start_quarry
id=$(create case11r --size 64Mi --fs ext4 --param layout=raid1); id2=$(create case11l --size 32Mi --fs ext4); stage=$(staging case11l)
again() { kill "$(pidof quarry)"; while pidof quarry >/dev/null; do sleep 0.2; done; start_quarry; sleep 1; }
look() { quarry volumes --socket /run/quarry/view.sock 2>&1; quarry pools --socket /run/quarry/view.sock 2>&1; }
quarry csi stage "$id2" --fs ext4 --staging-path "$stage" >/dev/null; quarry csi unstage "$id2" --staging-path "$stage" >/dev/null
again; good=$(look | sed 's/  */ /g')
cp -n /etc/lvm/lvmlocal.conf /root/lvmlocal.conf 2>/dev/null
try() {
  echo "--- $1"; printf '%s\n' "$1" >/etc/lvm/lvmlocal.conf; again
  now=$(look | sed 's/  */ /g'); [ "$now" = "$good" ] || { fails "with that line the view changes:"; echo "$now"; }
  said=$(quarry csi create case11n --size 32Mi --fs ext4 --param pool=fast 2>&1) || { fails "create: $said"; lvs --noheadings vg0 2>/dev/null | grep case11n; }
  n=${id%case11r}case11n
  said=$(quarry csi stage "$id2" --fs ext4 --staging-path "$stage" 2>&1) || fails "stage: $said"
  quarry csi unstage "$id2" --staging-path "$stage" >/dev/null
  said=$(quarry csi delete "$n" 2>&1) || { fails "delete: $said"; }
  lvs --noheadings vg0 2>/dev/null | grep case11n
}
try 'report { mark_hidden_devices=0 }'
try 'report { quoted=0 }'
try 'report { prefixes=1 }'
try 'report { columns_as_rows=1 }'
try 'report { headings=0 }'
try 'report { separator="|" }'
try 'report { aligned=0 two_word_unknown_device=1 binary_values_as_numeric=1 }'
try 'report { output_format="json" }'
try 'global { units="s" si_unit_consistency=0 suffix=1 }'
try 'log { prefix="x" silent=1 verbose=3 file="/tmp/lvm.log" level=7 indent=0 overwrite=1 }'
try 'report { output_format="json_std" }'
try 'report { a_key_of_a_newer_lvm=1 }'
rm -f /etc/lvm/lvmlocal.conf
echo "--- activation { volume_list=[\"other\"] }"
vgchange -qan vg0 >/dev/null
echo 'activation { volume_list=["other"] }' >/etc/lvm/lvmlocal.conf; again
said=$(quarry csi create case11v --size 32Mi --fs ext4 --param pool=fast 2>&1); echo "create: $said"
left=$(lvs --noheadings -o lv_name,lv_active,lv_tags vg0 | grep case11v)
[ -z "$left" ] || fails "a volume is left: $left"
case $said in *volume_list*) ;; *) fails "the answer does not name activation/volume_list" ;; esac
said=$(quarry csi stage "$id2" --fs ext4 --staging-path "$stage" 2>&1); echo "stage: $said"
case $said in *volume_list*) ;; *) fails "the answer does not name activation/volume_list" ;; esac
quarry pools --socket /run/quarry/view.sock | tail -n 1
rm -f /etc/lvm/lvmlocal.conf; [ -e /root/lvmlocal.conf ] && cp /root/lvmlocal.conf /etc/lvm/lvmlocal.conf
again; for n in case11r case11l case11v case11n; do quarry csi delete "${id%case11r}$n" >/dev/null; done; lvs vg0
exit $bad
