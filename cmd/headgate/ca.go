package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/pkg/certs"
	"github.com/headgate/headgate/pkg/config"
)

// authorityDir is where the authority's key is: nobody's but the daemon's.
func authorityDir(cfg *config.Config) string { return filepath.Join(cfg.State, "ca") }

// authorityPath is where everybody finds its certificate: beside the control
// socket, in whose directory nobody but the daemon can write.
func authorityPath(socket string) string {
	return filepath.Join(filepath.Dir(socket), certs.CertificateFile)
}

func (d *daemon) openAuthority(context.Context) (err error) {
	if d.authority, err = certs.Open(authorityDir(d.cfg)); err != nil {
		return withHint(err, "without it agents can't be offered TLS; headgate ca --help says what it is for")
	}
	return nil
}

const aboutAuthority = `Print the certificate of this host's authority, in PEM.

An agent that asks for TLS gets it from headgate, which shows a certificate for the
name that the agent asked for, signed by an authority that was made on this host and
never leaves it. Agents that verify certificates have to trust it.

psql and all that use libpq (sslmode=verify-ca or verify-full):

  export PGSSLROOTCERT=$(headgate ca --path)

A connection string says sslrootcert=/path. pgx and other drivers know the same names;
for Java it is a key store:

  headgate ca | keytool -importcert -noprompt -alias headgate -keystore trust.p12 -storepass changeit

Agents that do not verify (sslmode=prefer or require) need nothing. What the databases
themselves show is verified by headgate, as the policy's tls says, whatever agents do.

The file is there, and the same, for as long as the daemon runs. No root is needed.`

func caCommand(e env) *cobra.Command {
	var socket string
	var path bool
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Print the certificate that agents trust if they verify TLS",
		Long:  aboutAuthority,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, text, err := readAuthority(cmd, authorityPath(socketPath(cmd, socket)))
			if err != nil {
				return withHint(err, "the daemon writes it when it starts: headgate status says whether it runs")
			}
			if path {
				_, err = fmt.Fprintln(e.stdout, file)
			} else {
				_, err = e.stdout.Write(text)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&socket, "socket", "", "control socket of the daemon, which the file is beside (default: as configured)")
	cmd.Flags().BoolVar(&path, "path", false, "print where the file is instead")
	return cmd
}

// readAuthority reads the file for everybody or, for who may, the daemon's own.
func readAuthority(cmd *cobra.Command, public string) (path string, text []byte, err error) {
	text, err = readCertificate(public)
	if !errors.Is(err, fs.ErrNotExist) {
		return public, text, err
	}
	cfg, cfgErr := loadConfig(cmd)
	if cfgErr != nil {
		return "", nil, err
	}
	own := filepath.Join(authorityDir(cfg), certs.CertificateFile)
	if text, ownErr := readCertificate(own); ownErr == nil {
		return own, text, nil
	}
	return "", nil, err
}

func readCertificate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	defer f.Close() // nothing was written
	text, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	return text, nil
}
