{{/* Names, labels and images that several templates use. */}}

{{/* The prefix of the names of all objects: the release's name, with "quarry" in it. */}}
{{- define "quarry.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains "quarry" $name) -}}{{- $name = printf "%s-quarry" $name -}}{{- end -}}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* The labels that select the pods; they never change. Called with (dict "root" $ "component" NAME). */}}
{{- define "quarry.selector" -}}
app.kubernetes.io/name: quarry
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The labels of every object. Called in the same way. */}}
{{- define "quarry.labels" -}}
{{ include "quarry.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "quarry.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* The Secrets with the certificates of both sides: your own, or those that the controllers fill. */}}
{{- define "quarry.controllerSecret" -}}
{{ .Values.certificates.controllerSecret | default (printf "%s-controller" (include "quarry.name" .)) }}
{{- end }}
{{- define "quarry.nodeSecret" -}}
{{ .Values.certificates.nodeSecret | default (printf "%s-node" (include "quarry.name" .)) }}
{{- end }}

{{/* A number in digits: Helm reads numbers as floats, and would print 1000000 as 1e+06. Text stays as it is. */}}
{{- define "quarry.number" -}}
{{ if kindIs "string" . }}{{ . }}{{ else }}{{ int64 . }}{{ end }}
{{- end }}

{{/* A number limited to a range: (list MINIMUM N MAXIMUM). */}}
{{- define "quarry.between" -}}
{{- max (index . 0) (min (index . 1) (index . 2)) -}}
{{- end }}
