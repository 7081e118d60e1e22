package collect

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// linkEvents follows RTM_NEWLINK and RTM_DELLINK, so that a carrier that is
// lost for less than the interval of the reader is seen as well.
func (n *nics) linkEvents(ctx context.Context, emit func(hwhealth.Sample)) error {
	updates := make(chan netlink.LinkUpdate, 64)
	done := make(chan struct{})
	defer close(done)
	failed := make(chan error, 1)
	err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{
		ErrorCallback: func(err error) {
			select {
			case failed <- err:
			default: // one reason is enough
			}
		}})
	if err != nil {
		return fmt.Errorf("subscribe to links: %w", err)
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return fmt.Errorf("follow links: %w", err)
		case u, ok := <-updates:
			if !ok {
				return errors.New("follow links: the kernel closed the socket")
			}
			for _, s := range n.linkEvent(u, time.Now()) {
				emit(s)
			}
		}
	}
}

// linkEvent makes samples of one message about a watched interface.
func (n *nics) linkEvent(u netlink.LinkUpdate, now time.Time) []hwhealth.Sample {
	name := u.Attrs().Name
	names, err := n.interfaces()
	if err != nil {
		return nil
	}
	for _, watched := range names {
		if watched != name || u.Header.Type != unix.RTM_NEWLINK {
			continue
		}
		b := newBatch("rtnetlink", now)
		d := n.device(name)
		up := u.IfInfomsg.Flags&unix.IFF_UP != 0
		b.put(d, hwhealth.LinkAdminUp, flag(up))
		b.put(d, hwhealth.LinkCarrier, flag(u.IfInfomsg.Flags&unix.IFF_LOWER_UP != 0))
		return b.out
	}
	return nil
}
