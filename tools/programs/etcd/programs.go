//go:build programs

// Package programs names what `scripts/programs` builds, so that `go mod tidy` keeps what that needs.
package programs

import _ "go.etcd.io/etcd/server/v3"
