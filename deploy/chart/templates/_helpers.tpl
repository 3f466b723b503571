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

{{/* "yes" where pods of several machines may use the volume of models. */}}
{{- define "tinylora.sharedModels" -}}
{{ if or (include "tinylora.several" .) (gt (int .Values.worker.replicas) 0) (eq .Values.models.accessMode "ReadWriteMany") }}yes{{ end }}
{{- end }}

{{/* "yes" where there may be more than one gateway. */}}
{{- define "tinylora.several" -}}
{{ if ne .Values.autoscaling.kind "none" }}{{ if gt (int .Values.autoscaling.maxReplicas) 1 }}yes{{ end }}
{{- else if gt (int .Values.gateway.replicas) 1 }}yes{{ end }}
{{- end }}

{{/* "yes" where the other Deployment does all jobs by gradients. */}}
{{- define "tinylora.workersTrain" -}}
{{- $methods := .Values.worker.methods }}
{{- if and (gt (int .Values.worker.replicas) 0) (or (not $methods) (and (has "reinforcement" $methods) (has "supervised" $methods))) }}yes{{ end }}
{{- end }}

{{/* "yes" where gateways are told to train nothing by gradients, as workers do it and no setting says otherwise. */}}
{{- define "tinylora.leavesTraining" -}}
{{ if and (include "tinylora.workersTrain" .) (not (hasKey .Values.settings "training_workers")) }}yes{{ end }}
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

{{/* Of all containers but the test's. What `env` of values has takes the place of ours: of two with one name Helm makes
nothing. torch asks for the user's name, which a user that the image does not know has here only. */}}
{{- define "tinylora.env" -}}
{{- $ours := dict "HOME" "/data" "USER" "tinylora" "HF_HOME" "/models/huggingface" "TINYLORA_MODELS_DIR" "/models" }}
{{- range $name, $value := .Values.settings }}
{{- $_ := set $ours (printf "TINYLORA_%s" (upper $name)) (include "tinylora.scalar" $value) }}
{{- end }}
{{- range .Values.env }}{{ $_ := unset $ours .name }}{{ end }}
{{- range $name, $value := $ours }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Of what reads models. */}}
{{- define "tinylora.hubToken" -}}
{{- with .Values.secrets.huggingfaceToken }}{{ if .name }}
{{- include "tinylora.fromSecret" (list "HF_TOKEN" .) }}
{{- end }}{{ end }}
{{- end }}

{{/* "yes" where `resources` of values have a GPU. */}}
{{- define "tinylora.hasGpu" -}}
{{- range $name, $_ := .limits }}{{ if hasPrefix "nvidia.com/" $name }}yes{{ end }}{{ end }}
{{- if .claims }}yes{{ end }}
{{- end }}

{{/* Of containers without a GPU of their own: the image asks for all, and NVIDIA's runtime would show them the gateways';
(list DEVICE ENV), ENV what they have of `env` of values, which takes the place of ours. */}}
{{- define "tinylora.noGpu" -}}
{{- $theirs := dict }}
{{- range index . 1 }}{{ $_ := set $theirs .name true }}{{ end }}
{{- if and (eq (index . 0) "gpu") (not (hasKey $theirs "NVIDIA_VISIBLE_DEVICES")) }}
- name: NVIDIA_VISIBLE_DEVICES
  value: void
{{- end }}
{{- end }}

{{- define "tinylora.containerSecurity" -}}
securityContext:
  {{- toYaml .Values.containerSecurityContext | nindent 2 }}
{{- end }}

{{/* Of all pods: who they run as, what they are told of the cluster (nothing), and where images are from. */}}
{{- define "tinylora.podSecurity" -}}
automountServiceAccountToken: false
# A Service called vllm would set VLLM_PORT, which vLLM takes for a number.
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Of all pods. */}}
{{- define "tinylora.volumes" -}}
- name: tmp
  emptyDir: {}
{{- with .Values.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tinylora.volumeMounts" -}}
- name: tmp
  mountPath: /tmp
{{- with .Values.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Where pods go; of values `gateway` or `worker`. */}}
{{- define "tinylora.placement" -}}
{{- with .runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
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

{{/* Jobs and the test go where gateways may, whose machines have the image; not away from gateways, though, as these may
be told to. */}}
{{- define "tinylora.jobPlacement" -}}
{{- $nodes := dict "affinity" (pick .Values.gateway.affinity "nodeAffinity") }}
{{- include "tinylora.placement" (merge $nodes (pick .Values.gateway "nodeSelector" "tolerations")) }}
{{- end }}

{{/* What the labels and annotations of a Job's pod have besides. */}}
{{- define "tinylora.jobMetadata" -}}
labels:
  {{- include "tinylora.labels" (index . 0) | nindent 2 }}
  app.kubernetes.io/component: {{ index . 1 }}
  {{- with (index . 0).Values.jobs.labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with (index . 0).Values.jobs.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
