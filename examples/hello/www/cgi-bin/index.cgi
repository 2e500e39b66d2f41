#!/bin/busybox sh
# GREETING and NAME are the app's config; the agent adds ADF_RELEASE and ADF_INSTANCE_ID.
printf 'Content-Type: text/plain\r\n\r\n'
printf '%s %s, says %s on %s\n' "${GREETING:-(no GREETING)}" "${NAME:-(no NAME)}" "$ADF_RELEASE" "$ADF_INSTANCE_ID"
