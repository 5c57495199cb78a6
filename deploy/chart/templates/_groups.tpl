{{/*
The groups of hosts, as JSON: a list with the values that the DaemonSet of each needs. Groups that could share a host are
rejected: it would run two node plugins over the same socket.
*/}}
{{- define "quarry.groups" -}}
{{- $root := . -}}
{{- $groups := list -}}
{{- $given := .Values.nodeGroups -}}
{{- if not $given -}}{{- $given = dict "" (dict "nodeSelector" dict) -}}{{- end -}}
{{- range $name, $group := $given -}}
  {{- $pools := $group.pools | default $root.Values.pools -}}
  {{- /* A list of its own counts even if it is empty: then no folder is mounted for this group. */ -}}
  {{- $diskFolders := ternary $group.diskFolders $root.Values.diskFolders (hasKey $group "diskFolders") -}}
  {{- include "quarry.checkPools" (dict "group" $name "pools" $pools "diskFolders" $diskFolders) -}}
  {{- $groups = append $groups (dict
      "name" $name
      "suffix" (ternary "node" (printf "node-%s" $name) (eq $name ""))
      "nodeSelector" (merge dict $group.nodeSelector $root.Values.node.nodeSelector)
      "pools" $pools
      "diskFolders" $diskFolders
      "kubelet" ($group.kubeletDirectory | default $root.Values.kubeletDirectory)
      "lvm" ($group.lvmDirectory | default $root.Values.lvmDirectory)) -}}
{{- end -}}
{{- range $one := $groups -}}
  {{- range $other := $groups -}}
    {{- if lt $one.name $other.name -}}
      {{- include "quarry.checkApart" (list $one $other) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- toJson $groups -}}
{{- end }}

{{/* A host has one value per label: only different values prove that it is not in both groups. */}}
{{- define "quarry.checkApart" -}}
{{- $one := index . 0 -}}
{{- $other := index . 1 -}}
{{- $apart := false -}}
{{- range $key, $value := $one.nodeSelector -}}
  {{- if and (hasKey $other.nodeSelector $key) (ne $value (index $other.nodeSelector $key)) -}}{{- $apart = true -}}{{- end -}}
{{- end -}}
{{- if not $apart -}}
  {{- fail (printf "nodeGroups: a host could match both %q and %q and would run two node plugins; add a label with different values to both nodeSelectors" $one.name $other.name) -}}
{{- end -}}
{{- end }}

{{/* Rejects at once what the node plugin would reject when it starts. */}}
{{- define "quarry.checkPools" -}}
{{- $where := ternary "pools" (printf "nodeGroups.%s.pools" .group) (eq .group "") -}}
{{- $names := list -}}
{{- $volumeGroups := list -}}
{{- $made := list -}}
{{- $archives := dict -}}
{{- $diskFolders := .diskFolders -}}
{{- range $pool := .pools -}}
  {{- if has .name $names -}}{{- fail (printf "%s: two pools have the name %q" $where .name) -}}{{- end -}}
  {{- if eq (empty .lvm) (empty .disk) -}}{{- fail (printf "%s: the pool %q must set exactly one of lvm and disk" $where .name) -}}{{- end -}}
  {{- $names = append $names .name -}}
  {{- with .lvm -}}
    {{- /* A volume group can have one ordinary pool, and thin pools beside it. */ -}}
    {{- $storage := .volumeGroup -}}
    {{- $kind := "volume group" -}}
    {{- with .thinPool -}}{{- $storage = printf "%s/%s" $storage .name -}}{{- $kind = "thin pool" -}}{{- end -}}
    {{- if has $storage $volumeGroups -}}{{- fail (printf "%s: two pools use the %s %q" $where $kind $storage) -}}{{- end -}}
    {{- $volumeGroups = append $volumeGroups $storage -}}
    {{- if .create -}}
      {{- if has .volumeGroup $made -}}{{- fail (printf "%s: two pools make the volume group %q: keep create in one of them" $where .volumeGroup) -}}{{- end -}}
      {{- $made = append $made .volumeGroup -}}
    {{- end -}}
    {{- if .archives -}}
      {{- if ne (toString .archives) (toString (dig .volumeGroup .archives $archives)) -}}
        {{- fail (printf "%s: the pools of the volume group %q have different archives" $where .volumeGroup) -}}
      {{- end -}}
      {{- $archives = set $archives .volumeGroup .archives -}}
    {{- end -}}
  {{- end -}}
  {{- with .disk | default (dig "create" dict (.lvm | default dict)) -}}
    {{- range $path := concat (dig "select" "paths" list .) (dig "exclude" "paths" list .) -}}
      {{- $seen := hasPrefix "/dev/" $path -}}
      {{- range $folder := $diskFolders -}}{{- if hasPrefix (printf "%s/" $folder) $path -}}{{- $seen = true -}}{{- end -}}{{- end -}}
      {{- if not $seen -}}
        {{- fail (printf "%s: the pool %q selects disks by the path %q, which the node plugin cannot see: add its folder to diskFolders" $where $pool.name $path) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{/*
Rejects equal ports in a pod: one of its containers could never start. Takes the kind of pod and a list of pairs: the name of
a value, and the port, which may be null.
*/}}
{{- define "quarry.checkPorts" -}}
{{- $seen := dict -}}
{{- $pod := index . 0 -}}
{{- range $pair := index . 1 -}}
  {{- $name := index $pair 0 -}}
  {{- with index $pair 1 -}}
    {{- $port := int . | toString -}}
    {{- if hasKey $seen $port -}}{{- fail (printf "%s and %s: the %s pod cannot use the port %s twice" (get $seen $port) $name $pod $port) -}}{{- end -}}
    {{- $_ := set $seen $port $name -}}
  {{- end -}}
{{- end -}}
{{- end }}
