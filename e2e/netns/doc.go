// Package netns tests poq on several hosts for real: every peer is a process of its own in a network namespace of
// its own, with routers that do NAT between them.
//
//	       11.0.0.0/8, where every address is reachable: the internet
//	---+----------+----------+----------+----------+---
//	   |          |          |          |          |
//	machines   machines    router     router     router      NAT: cone, cone, symmetric
//	                         |          |          |
//	                      --home--   --home--   --home--     each 192.168.1.0/24, as homes are
//
// There are only tests here, for Linux. They need no program but poq and leave nothing behind: a namespace has no
// name and lives as long as the thread that made it, which its processes do not outlive either. The test runs itself
// again in a namespace without any link, as root of a user namespace if it is not root, so that nothing that it starts
// can reach a network outside. Where a system does not allow that, the tests are skipped and say why.
package netns
