{{/* What a schema cannot say: values that do not go together. Each ends with what to do. */}}
{{- define "tinylora.checks" -}}
{{- $files := toString (.Values.settings.files_url | default "") }}
{{- if include "tinylora.several" . }}
{{- if not (include "tinylora.postgresql" .) }}
{{- fail "Several gateways (gateway.replicas, autoscaling) take PostgreSQL, because SQLite has one writer: name a Secret with its URL in secrets.databaseUrl.name." }}
{{- end }}
{{- if not (contains "://" $files) }}
{{- fail "Several gateways (gateway.replicas, autoscaling) would each keep their own uploaded files: set settings.files_url to a bucket, s3://bucket/prefix." }}
{{- end }}
{{- end }}
{{- if and (include "tinylora.postgresql" .) (not (contains "://" $files)) }}
{{- fail "With PostgreSQL a gateway keeps no volume, and uploaded files would be lost with its pod: set settings.files_url to a bucket, s3://bucket/prefix." }}
{{- end }}
{{- if and (or (include "tinylora.several" .) (gt (int .Values.worker.replicas) 0)) (not .Values.models.existingClaim) (ne .Values.models.accessMode "ReadWriteMany") }}
{{- fail "Pods of several machines read the models: set models.accessMode to ReadWriteMany, with a storage class that has it, or name a claim of that kind in models.existingClaim." }}
{{- end }}
{{- if and (gt (int .Values.worker.replicas) 0) (not .Values.secrets.workerKey.name) }}
{{- fail "Workers need a key: put one into a Secret (openssl rand -hex 32) and name that in secrets.workerKey.name." }}
{{- end }}
{{- if and (has (toString .Values.gateway.rollout.maxSurge) (list "0" "0%")) (has (toString .Values.gateway.rollout.maxUnavailable) (list "0" "0%")) }}
{{- fail "gateway.rollout has 0 and 0, with which no new version could ever start: set maxSurge or maxUnavailable to 1." }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parents) }}
{{- fail "An HTTPRoute belongs to a Gateway: name yours in httpRoute.parents, [{name: public, namespace: gateways}]." }}
{{- end }}
{{- if and .Values.inferencePool.enabled (not .Values.inferencePool.endpointPicker.name) }}
{{- fail "An InferencePool has an endpoint picker: name its Service in inferencePool.endpointPicker.name." }}
{{- end }}
{{- $metrics := list "/metrics" }}
{{- range $place, $arg := .Values.args }}
{{- if hasPrefix "--root" (include "tinylora.flag" $arg) }}
{{- $root := ternary (regexReplaceAll "^[^=]*=" $arg "") (index (append $.Values.args "") (add1 $place)) (contains "=" $arg) }}
{{- $metrics = append $metrics (printf "%s/metrics" (trimSuffix "/" $root)) }}
{{- end }}
{{- end }}
{{- range $route := .Values.routes }}
{{- range $metrics }}
{{- if or (hasPrefix (printf "%s/" (trimSuffix "/" $route)) .) (hasPrefix (printf "%s/" .) (printf "%s/" $route)) }}
{{- fail (printf "routes has %s, which lets everyone read %s, and with it the names of all tenants and their adapters: name the prefixes that clients need, as %s." $route . (. | replace "/metrics" "/v1")) }}
{{- end }}
{{- end }}
{{- end }}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) }}
{{- fail "autoscaling.minReplicas is more than autoscaling.maxReplicas." }}
{{- end }}
{{- range .Values.args }}
{{- if regexMatch "^--(host|port|uds|shutdown-timeout|ssl-[a-z-]+|api-key)$" (include "tinylora.flag" .) }}
{{- fail (printf "args has %s, which is the chart's: a gateway listens on port 8000 without TLS (an Ingress or Gateway has that) where gateway.host says, drains for gateway.drain.answerSeconds, and has its keys from Secrets (secrets)." (regexFind "^[^=]+" .)) }}
{{- end }}
{{- end }}
{{- $ours := dict "TINYLORA_DRAIN_NOTICE_S" "gateway.drain.noticeSeconds" "TINYLORA_METRICS_WITHOUT_KEY" "monitoring.metricsWithoutKey" }}
{{- if include "tinylora.leavesTraining" . }}{{ $_ := set $ours "TINYLORA_TRAINING_WORKERS" "settings.training_workers" }}{{ end }}
{{- range $secret, $name := dict "adminKey" "TINYLORA_ADMIN_KEY" "workerKey" "TINYLORA_WORKER_KEY" "databaseUrl" "TINYLORA_DATABASE_URL" "redisUrl" "TINYLORA_REDIS_URL" "judgeApiKey" "TINYLORA_JUDGE_API_KEY" "secretsKey" "TINYLORA_SECRETS_KEY" "webhookKey" "TINYLORA_WEBHOOK_KEY" "huggingfaceToken" "HF_TOKEN" }}
{{- if (index $.Values.secrets $secret).name }}{{ $_ := set $ours $name (printf "secrets.%s" $secret) }}{{ end }}
{{- end }}
{{- $named := dict }}
{{- range .Values.env }}
{{- if hasKey $named .name }}
{{- fail (printf "env has %s twice, and a container takes a name once: leave one of the two out." .name) }}
{{- end }}
{{- $_ := set $named .name true }}
{{- with get $ours .name }}
{{- fail (printf "env has a variable that the chart sets: use %s instead." .) }}
{{- end }}
{{- end }}
{{- range .Values.worker.args }}
{{- if regexMatch "^--(url|key)(=|$)" . }}
{{- fail (printf "worker.args has %s, which is the chart's: workers ask the Service, with the key in secrets.workerKey." (regexFind "^[^=]+" .)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The name of a flag as vLLM reads it: --root_path=/llm is --root-path. */}}
{{- define "tinylora.flag" -}}
{{ regexFind "^[^=]+" . | replace "_" "-" }}
{{- end }}
