{{/* Names, labels, images and variables that several manifests share. */}}

{{- define "tinylora.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 45 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 45 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Never changed: a Deployment's selector cannot be. */}}
{{- define "tinylora.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tinylora.labels" -}}
{{ include "tinylora.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "tinylora.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s-%s" .Chart.AppVersion .Values.device) }}
{{- end }}

{{- define "tinylora.serviceAccount" -}}
{{ if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "tinylora.name" .) }}
{{- else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "tinylora.modelsClaim" -}}
{{ .Values.models.existingClaim | default (printf "%s-models" (include "tinylora.name" .)) }}
{{- end }}

{{/* "yes" with PostgreSQL, and nothing with SQLite. */}}
{{- define "tinylora.postgresql" -}}
{{ if .Values.secrets.databaseUrl.name }}yes{{ end }}
{{- end }}

{{/* "yes" where there may be more than one gateway. */}}
{{- define "tinylora.several" -}}
{{ if ne .Values.autoscaling.kind "none" }}{{ if gt (int .Values.autoscaling.maxReplicas) 1 }}yes{{ end }}
{{- else if gt (int .Values.gateway.replicas) 1 }}yes{{ end }}
{{- end }}

{{/* A variable from a Secret; (list NAME SECRET), SECRET of values `secrets`. */}}
{{- define "tinylora.fromSecret" -}}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef: {{ pick (index . 1) "name" "key" | toJson }}
{{- end }}

{{/* As the server reads it: Helm makes 1073741824 the number 1.073741824e+09. */}}
{{- define "tinylora.scalar" -}}
{{ if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/* Of all containers. */}}
{{- define "tinylora.env" -}}
- name: HOME
  value: /data
- name: HF_HOME
  value: /models/huggingface
- name: TINYLORA_MODELS_DIR
  value: /models
{{- range $name, $value := .Values.settings }}
- name: TINYLORA_{{ upper $name }}
  value: {{ include "tinylora.scalar" $value | quote }}
{{- end }}
{{- with .Values.secrets.huggingfaceToken }}{{ if .name }}
{{ include "tinylora.fromSecret" (list "HF_TOKEN" .) }}
{{- end }}{{ end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tinylora.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
{{- end }}

{{/* Of all pods but the test's: who they run as, and where images are from. */}}
{{- define "tinylora.podSecurity" -}}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Where pods go; of values `gateway` or `worker`. */}}
{{- define "tinylora.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
