#!/usr/bin/env bash
# TPU slices of a GKE cluster: builds an image of this checkout and runs it as a JobSet on every host of every slice.
#
#   bash launch/gke.sh [--dry-run] image               build launch/Dockerfile and push it
#   bash launch/gke.sh [--dry-run] apply COMMAND ...   start `instructblip COMMAND ...` as a JobSet
#   bash launch/gke.sh [--dry-run] logs                follow the log of process 0
#   bash launch/gke.sh [--dry-run] status | delete
#
# The cluster needs node pools of the slices' kind and the JobSet controller (docs/clusters.md has the two commands).
# GKE tells each host its peers; a lost host restarts the whole job, which resumes from its gs:// workdir. A workdir on
# the pods' own disks is refused, because it would be lost with them.
#
# Settings, by environment variable:
#   NAME           name of the job (default instructblip)
#   IMAGE          REGION-docker.pkg.dev/PROJECT/REPOSITORY/instructblip:TAG
#   EXTRA          extras to install in the image (default tpu, which includes buckets)
#   ACCELERATOR    tpu-v6e-slice, tpu-v5-lite-podslice, tpu-v5p-slice, tpu-v4-podslice
#   TOPOLOGY       chips of a slice, such as 4x4;  SLICES   number of slices (default 1)
#   CHIPS          chips per host (default: 4, or all of a smaller slice)
#   SPOT=1         use spot nodes;  RESTARTS   maximum number of restarts of the job (default 100)
#   ACCOUNT        Kubernetes service account that may use the bucket (default: default)
#   CACHE          gs:// directory of compiled programs (default: in the pod, lost with it)
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/say.sh
if [ "${1:-}" = --dry-run ]; then dry=yes && shift; fi
action=${1:---help}
[ $# -eq 0 ] || shift
NAME=${NAME:-instructblip}
selector=jobset.sigs.k8s.io/jobset-name=$NAME

# Print launch/gke.yaml with the settings and the command filled in.
jobset() {
    local chips hosts word args="" spot="" yaml
    chips=$((${TOPOLOGY//x/*}))
    CHIPS=${CHIPS:-$((chips < 4 ? chips : 4))}
    hosts=$((chips / CHIPS))
    [ $((hosts * CHIPS)) = $chips ] || refuse "TOPOLOGY $TOPOLOGY has $chips chips, not a multiple of CHIPS $CHIPS"
    for word in "$@"; do
        word=${word//\\/\\\\}
        args+="${args:+, }\"${word//\"/\\\"}\""
    done
    [ "${SPOT:-0}" = 0 ] || spot='cloud.google.com/gke-spot: "true"'
    yaml=$(<launch/gke.yaml)
    yaml=${yaml//@NAME@/"$NAME"}
    yaml=${yaml//@IMAGE@/"$IMAGE"}
    yaml=${yaml//@ACCELERATOR@/"$ACCELERATOR"}
    yaml=${yaml//@TOPOLOGY@/"$TOPOLOGY"}
    yaml=${yaml//@SLICES@/"${SLICES:-1}"}
    yaml=${yaml//@HOSTS@/"$hosts"}
    yaml=${yaml//@CHIPS@/"$CHIPS"}
    yaml=${yaml//@SPOT@/"$spot"}
    yaml=${yaml//@RESTARTS@/"${RESTARTS:-100}"}
    yaml=${yaml//@ACCOUNT@/"${ACCOUNT:-default}"}
    yaml=${yaml//@CACHE@/"${CACHE:-/tmp/compiled}"}
    echo "${yaml//@ARGS@/"$args"}"
}

case $action in
    --help | -h) usage ;;
    image)
        needs IMAGE "the image's full name"
        call docker build --platform linux/amd64 --build-arg EXTRA="${EXTRA:-tpu}" -f launch/Dockerfile -t "$IMAGE" .
        call docker push "$IMAGE"
        ;;
    apply)
        on_bucket apply "$@"
        needs IMAGE "the image's full name"
        needs ACCELERATOR "the kind of TPU, such as tpu-v6e-slice"
        needs TOPOLOGY "the shape of a slice, such as 4x4"
        [[ $TOPOLOGY =~ ^[1-9][0-9]*(x[1-9][0-9]*)+$ ]] || refuse "TOPOLOGY '$TOPOLOGY' must have the form 4x4 or 2x2x4"
        yaml=$(jobset "$@") # on its own: in a pipe, its refusal would be lost
        if [ -n "$dry" ]; then show kubectl apply --filename=- && echo "$yaml" && exit; fi
        kubectl apply --filename=- <<<"$yaml"
        echo "follow it with: NAME=$NAME bash launch/gke.sh logs"
        ;;
    logs)
        call kubectl logs --follow --tail=-1 \
            --selector="$selector,jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
        ;;
    status)
        call kubectl get jobset "$NAME"
        call kubectl get pods --selector="$selector" --output=wide
        ;;
    delete)
        call kubectl delete jobset "$NAME"
        echo "$NAME is deleted. Node pools that do not scale to zero remain and are billed until:"
        echo "  gcloud container node-pools delete POOL --cluster=CLUSTER --location=LOCATION"
        ;;
    *) refuse "no action '$action'; choose image, apply, logs, status or delete" ;;
esac
