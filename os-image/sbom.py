#!/usr/bin/env python3
"""Writes what the image is made of as CycloneDX 1.6: Debian packages and the crates of our programs.

usage: sbom.py VERSION PACKAGES CRATES > sbom.cdx.json
PACKAGES: lines of name, tab, version. CRATES: lines of `cargo tree --prefix none --format '{p}'`. No date and no random
number: the serial number is made of the content.
"""
import json, re, sys, uuid


def component(kind, name, version, purl):
    return {'type': kind, 'bom-ref': purl, 'name': name, 'version': version, 'purl': purl}


def main(version, packages, crates):
    found = {}
    with open(packages) as file:
        for line in file:
            name, debian = line.rstrip('\n').split('\t')
            purl = f'pkg:deb/debian/{name}@{debian.replace("+", "%2B").replace(":", "%3A")}?arch=amd64&distro=debian-13'
            found[purl] = component('library', name, debian, purl)
    with open(crates) as file:
        for line in file:
            if crate := re.match(r'(\S+) v(\S+)', line):
                purl = f'pkg:cargo/{crate[1]}@{crate[2].replace("+", "%2B")}'
                found[purl] = component('library', crate[1], crate[2], purl)
    parts = [found[purl] for purl in sorted(found)]
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(parts, sort_keys=True))
    told = {'bomFormat': 'CycloneDX', 'specVersion': '1.6', 'serialNumber': f'urn:uuid:{serial}', 'version': 1,
            'metadata': {'component': {'type': 'operating-system', 'bom-ref': 'roost-host', 'name': 'roost-host', 'version': version}},
            'components': parts}
    json.dump(told, sys.stdout, indent=1, sort_keys=True)
    print()


main(*sys.argv[1:])
