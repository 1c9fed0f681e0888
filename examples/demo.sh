#!/bin/sh
# The demo, step by step: what a person types, run by `make demo` against a runner of its own.
set -eu
runner=${NIGHTSHIFT_RUNNER:-local-runner}
here=$(dirname "$0")

step() { printf '\n\033[1m%s\033[0m\n' "$*"; }

# Shows a command so that it can be typed again, and runs it.
run() {
    printf '$ local-runner'
    for word in "$@"; do
        case $word in
        *[!A-Za-z0-9_./=-]*) printf " '%s'" "$word" ;;
        *) printf ' %s' "$word" ;;
        esac
    done
    printf '\n'
    "$runner" "$@"
}

step "1. An account that sends through the runner's inbox, which catches all mail"
run account add bookshop --host inbox --from "night@example.org" --from-name "Nightshift bookshop" --replace
run account test bookshop

step "2. People who want no mail"
run suppression import "$here/suppressed.csv"

step "3. A campaign from a recipients file with duplicates, invalid, suppressed, refused and deferred addresses"
rejects=$(mktemp)
created=$(mktemp)
trap 'rm -f "$rejects" "$created"' EXIT
run campaign create --name "Spring catalogue" --account bookshop \
    --subject "{{ first_name }}, order {{ order_no }} is on its way" \
    --html "$here/mail.html" --recipients "$here/recipients.csv" --rejects "$rejects" --start | tee "$created"
campaign=$(sed -n 's/^Campaign \([0-9]*\) .*/\1/p' "$created")

step "4. It goes out: dispatch-campaigns plans it, send-emails sends it batch by batch"
run campaign progress "$campaign" --wait --timeout 100

step "5. The receipt"
run campaign receipt "$campaign"

step "6. One of the mails"
run inbox list --limit 3
run inbox show 1

step "7. A single mail, which would not have waited for the campaign"
run mail send --account bookshop --to ann@example.org --subject "Your code" --text "1234" --key login-1 --wait

step "8. Does anything stand still? (monitor-campaigns looks every five minutes)"
run health-check

step "9. Health"
printf '$ curl %s/health/\n' "$NIGHTSHIFT_GATEWAY"
"$runner" get "$NIGHTSHIFT_GATEWAY/health/"
