#!/bin/sh
# What would go wrong in the cloud, found on this machine: the template as it stands and as SAM expands it, the local
# runner's reading of it, and the deployed form of every function. Needs Python 3 and Rust; no account, no region, no
# container engine. The network is used once, for the tools.
#
#   run.sh            everything
#   run.sh template   without the builds
#   run.sh expand     writes the expansion that the runner's tests compare with; after a change of template.yaml
#
# Functions are built for x86_64, which every build host can make and start. The template's default, arm64, needs the
# Rust target aarch64-unknown-linux-gnu, which cargo-lambda adds with rustup.
set -eu
cd "$(dirname "$0")/../.."

what=${1:-all}
here=infra/check-cloud
tools=.nightshift/check-cloud
fixture=local-runner/cloud/tests/fixtures/template-expanded.json
export SAM_CLI_TELEMETRY=0 PIP_DISABLE_PIP_VERSION_CHECK=1
# boto3 wants a region even where nobody is asked, and no profile that it cannot find.
export AWS_DEFAULT_REGION="${AWS_DEFAULT_REGION:-us-east-1}"
unset AWS_PROFILE AWS_DEFAULT_PROFILE

case $what in all | template | expand) ;; *)
    echo "usage: $0 [template|expand]" >&2
    exit 2
    ;;
esac

step() {
    printf '\n== %s\n' "$*"
}

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

step "tools (in $tools)"
if ! cmp -s "$here/requirements.txt" "$tools/installed.txt"; then
    python3 -m venv "$tools" || fail "Python's venv is missing; on Debian: sudo apt-get install python3-venv"
    "$tools/bin/pip" install --quiet --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$tools/installed.txt"
fi
# In front, so that cargo-lambda finds this Python, whose package ziglang is its cross linker.
PATH="$PWD/$tools/bin:$PATH"
export PATH
sam --version
cfn-lint --version
cargo lambda --version

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

if [ "$what" = expand ]; then
    step "what SAM makes of template.yaml, into $fixture"
    python "$here/expand.py" oracle template.yaml >"$work/expanded.json"
    cp "$work/expanded.json" "$fixture"
    exit
fi

step "cfn-lint: template.yaml as it stands"
cfn-lint template.yaml

step "cfn-lint: template.yaml as SAM expands it"
python "$here/expand.py" cloudformation template.yaml >"$work/cloudformation.yaml"
cfn-lint "$work/cloudformation.yaml"

step "sam validate --lint"
sam validate --lint

step "the runner reads the template as SAM expands it"
python "$here/expand.py" oracle template.yaml >"$work/expanded.json"
diff -u "$fixture" "$work/expanded.json" || fail "$fixture is out of date; write it anew: $here/run.sh expand"
cargo test --quiet --workspace --test oracle

if [ "$what" = template ]; then
    exit
fi

step "sam build, x86_64"
sam build --config-env x86_64

step "every function is there and starts"
python "$here/starts.py" "$fixture" .aws-sam/build
