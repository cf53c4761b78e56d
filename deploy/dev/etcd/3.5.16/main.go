// Command etcd is the server of one etcd release line, built from its Go modules: `go install pkg@version` refuses
// them because of their replace lines.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
