"""Verifies the DKIM signatures of mails with dkimpy.

Standard input is JSON: {"records": {"s._domainkey.example.org": "v=DKIM1; …"}, "mails": ["…", …]}; the records stand for
DNS. Standard output is JSON: for each mail its signatures, each with the tags that it bears and whether it is good.
"""

import json
import sys

import dkim
from dkim.util import parse_tag_value


def main():
    given = json.load(sys.stdin)

    def txt(name, timeout=5):
        record = given["records"].get(name.decode().rstrip("."))
        return record.encode() if record is not None else None

    answers = []
    for mail in given["mails"]:
        signed = dkim.DKIM(mail.encode())
        signatures = []
        for index, value in enumerate(v for n, v in signed.headers if n.lower() == b"dkim-signature"):
            tags = {k.decode(): v.decode() for k, v in parse_tag_value(value).items()}
            try:
                good, why = bool(signed.verify(idx=index, dnsfunc=txt)), ""
            except dkim.DKIMException as error:
                good, why = False, str(error)
            signatures.append({"good": good, "why": why, "tags": tags})
        answers.append(signatures)
    json.dump(answers, sys.stdout)


main()
