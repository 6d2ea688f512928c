{{- define "lockgate.labels" -}}
app.kubernetes.io/name: lockgate
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "lockgate.selector" -}}
app.kubernetes.io/name: lockgate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "lockgate.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* What the manifests rely on, and what was given on top of it. */}}
{{- define "lockgate.config" -}}
{{- $api := dict "listen" (printf "127.0.0.1:%v" .Values.apiPort) "socket" "/run/lockgate/lockgate.sock" -}}
{{- $node := dict "restart_grace" "30s" -}}
{{- $needed := dict "node" $node "store" "sled:/var/lib/lockgate" "policies" (list "policies/") "api" $api -}}
{{- toYaml (mergeOverwrite $needed (deepCopy .Values.config)) -}}
{{- end -}}
