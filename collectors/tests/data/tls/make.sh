#!/bin/sh
# Makes the certificates of this directory: for tests only, worthless elsewhere, valid for a hundred years.
set -eu
ca() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -subj "/CN=backburn test $1" \
        -keyout "$1.key" -out "$1.crt" 2>/dev/null
}
leaf() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" -keyout "$2.key" -out "$2.csr" 2>/dev/null
    printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n' > ext
    openssl x509 -req -in "$2.csr" -CA "$1.crt" -CAkey "$1.key" -CAcreateserial -days 36500 -extfile ext -out "$2.crt" 2>/dev/null
}
ca ca
ca stranger
leaf ca server
leaf ca client
leaf stranger foreign
rm -f ./*.csr ./*.srl ext ca.key stranger.key stranger.crt
