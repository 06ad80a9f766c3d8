package keystore

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"

	"github.com/poqmesh/poq/crypto"
)

const (
	// MaxFile bounds the bytes of a key's file. They have under 800.
	MaxFile = 4 << 10
	// workFactor is the logarithm of scrypt's N: 2^17 with r = 8, as OWASP's password storage cheat sheet asks for. A
	// key takes 128 MB for half a second.
	workFactor = 17
	// maxWorkFactor bounds what a file may ask for: 1 GB.
	maxWorkFactor = 20

	sealedType   = "POQ ENCRYPTED PRIVATE KEY"
	publicHeader = "Public-Key"
)

// Marshal returns a key as a file has it. Without a passphrase that is PKCS #8 in PEM. With one it is a PEM block of
// type POQ ENCRYPTED PRIVATE KEY, whose header Public-Key has the public key in hex and whose content is a file of age
// (https://age-encryption.org/v1, with a passphrase) around the former.
func Marshal(k crypto.PrivateKey, passphrase []byte) ([]byte, error) {
	return marshal(k, passphrase, workFactor)
}

func marshal(k crypto.PrivateKey, passphrase []byte, logN int) ([]byte, error) {
	data, err := k.MarshalPEM()
	if err != nil || passphrase == nil {
		return data, err
	}
	recipient, err := age.NewScryptRecipient(string(passphrase))
	if err != nil {
		return nil, fmt.Errorf("encrypting a key: %w", err)
	}
	recipient.SetWorkFactor(logN)
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, recipient)
	if err != nil {
		return nil, fmt.Errorf("encrypting a key: %w", err)
	}
	_, err = w.Write(data)
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("encrypting a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: sealedType, Headers: map[string]string{publicHeader: k.Public().String()}, Bytes: sealed.Bytes()}), nil
}

// Parse reads what [Marshal] returned.
func Parse(data []byte, passphrase Passphrase) (k crypto.PrivateKey, err error) {
	public, sealed, err := open(data)
	if err != nil {
		return k, err
	}
	if sealed == nil {
		return crypto.ParsePEM(data)
	}
	if passphrase == nil {
		return k, ErrEncrypted
	}
	secret, err := passphrase()
	if err != nil {
		return k, err
	}
	identity, err := age.NewScryptIdentity(string(secret))
	if err != nil {
		return k, fmt.Errorf("%w: it is empty", ErrPassphrase)
	}
	identity.SetMaxWorkFactor(maxWorkFactor)
	r, err := age.Decrypt(bytes.NewReader(sealed), identity)
	var wrong *age.NoIdentityMatchError
	if errors.As(err, &wrong) {
		return k, ErrPassphrase
	}
	if err != nil {
		return k, fmt.Errorf("decrypting a key: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, MaxFile))
	if err != nil {
		return k, fmt.Errorf("decrypting a key: %w", err)
	}
	if k, err = crypto.ParsePEM(plain); err == nil && k.Public() != public {
		err = fmt.Errorf("the file says that its public key is %s, and holds that of %s", public, k.Public())
	}
	if err != nil {
		return crypto.PrivateKey{}, err
	}
	return k, nil
}

// Inspect tells what can be told of the file of a key without its passphrase. Only [Parse] proves that an encrypted one
// has this public key.
func Inspect(data []byte) (public crypto.PublicKey, encrypted bool, err error) {
	public, sealed, err := open(data)
	if err != nil || sealed != nil {
		return public, sealed != nil, err
	}
	k, err := crypto.ParsePEM(data)
	if err != nil {
		return public, false, err
	}
	return k.Public(), false, nil
}

// open returns the public key and the age file of an encrypted key, and nil for any other.
func open(data []byte) (public crypto.PublicKey, sealed []byte, err error) {
	if len(data) > MaxFile {
		return public, nil, fmt.Errorf("not a private key: more than %d bytes", MaxFile)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != sealedType {
		return public, nil, nil
	}
	if err := public.UnmarshalText([]byte(block.Headers[publicHeader])); err != nil {
		return public, nil, fmt.Errorf("header %s of an encrypted key: %w", publicHeader, err)
	}
	return public, append([]byte{}, block.Bytes...), nil // not nil, even if there are none
}
