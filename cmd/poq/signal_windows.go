package main

// ignoreFileSize: Windows has no such limit.
func ignoreFileSize() {}
