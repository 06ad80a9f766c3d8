package keystore

// checkMode: Windows keeps no such modes; the directory's access list protects the keys.
const checkMode = false
