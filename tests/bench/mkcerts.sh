#!/usr/bin/env bash
# Makes an ECDSA P-256 authority and certificates for a server, a client and ten services of a router in DIR, unless they are there and fresh.
# Each names one SPIFFE id, and "localhost" for peers that verify host names.
set -euo pipefail
dir="${1:?usage: mkcerts.sh DIR}"
trust_domain=bench.outrigger.local
mkdir -p "$dir"
cd "$dir"
# Good for another day, or made anew.
openssl x509 -checkend 86400 -noout -in ca.pem >/dev/null 2>&1 && [ -e b9.pem ] && exit 0

openssl ecparam -name prime256v1 -genkey -noout -out ca.key
openssl req -x509 -new -key ca.key -sha256 -days 30 -subj "/CN=bench-ca" -out ca.pem \
  -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" \
  -addext "subjectAltName=URI:spiffe://$trust_domain"

issue() { # NAME SERVICE
  openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1.key"
  openssl req -new -key "$1.key" -subj "/CN=$2" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -sha256 -out "$1.pem" 2>/dev/null \
    -extfile <(printf '%s\n' "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" \
      "extendedKeyUsage=serverAuth,clientAuth" \
      "subjectAltName=DNS:localhost,IP:127.0.0.1,URI:spiffe://$trust_domain/$2")
  rm "$1.csr"
}
issue server bench
issue client ingress
for number in 0 1 2 3 4 5 6 7 8 9; do
  issue "b$number" "b$number"
done
# HAProxy wants both in one file.
cat server.pem server.key > server-bundle.pem
# nginx reads them after it has dropped its privileges.
chmod 644 ./*.key ./*.pem
