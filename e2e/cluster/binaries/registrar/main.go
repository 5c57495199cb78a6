// Registers a CSI driver with kubelet: a test-only replacement for Kubernetes' node-driver-registrar, which
// cannot be required at a released version: its tags are v2 and its module path is not. This program accepts
// the flags that the chart passes to the real one, and uses the same two protocols through the same
// libraries.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// registrar answers kubelet, which watches the registration folder for sockets.
type registrar struct {
	registration.UnimplementedRegistrationServer
	driver   string
	endpoint string
	refused  chan error
}

// GetInfo returns the driver's name and the path of its CSI socket on the host.
func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type:              registration.CSIPlugin,
		Name:              r.driver,
		Endpoint:          r.endpoint,
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

// NotifyRegistrationStatus receives kubelet's result. If kubelet rejects the driver, this program exits, so
// that its restart tries again.
func (r *registrar) NotifyRegistrationStatus(
	_ context.Context, status *registration.RegistrationStatus,
) (*registration.RegistrationStatusResponse, error) {
	if status.PluginRegistered {
		log.Printf("kubelet has registered %s", r.driver)
	} else {
		r.refused <- fmt.Errorf("kubelet refused to register %s: %s", r.driver, status.Error)
	}
	return &registration.RegistrationStatusResponse{}, nil
}

func main() {
	csiAddress := flag.String("csi-address", "/run/csi/socket", "the driver's CSI socket, as this program sees it")
	endpoint := flag.String("kubelet-registration-path", "", "the driver's CSI socket, as kubelet sees it")
	folder := flag.String("plugin-registration-path", "/registration", "kubelet's folder for registration sockets")
	health := flag.String("http-endpoint", "", "where /healthz is served; nowhere when empty")
	timeout := flag.Duration("timeout", time.Second, "how long one call of the driver may take")
	flag.Parse()
	if err := run(*csiAddress, *endpoint, *folder, *health, *timeout); err != nil {
		log.Fatal(err)
	}
}

// run registers the driver, and runs until it is stopped or kubelet rejects the driver.
func run(csiAddress, endpoint, folder, health string, timeout time.Duration) error {
	if endpoint == "" {
		return errors.New("--kubelet-registration-path is missing")
	}
	// Before any socket appears: an early stop must not leave one behind.
	ended, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	driver, err := driverName(ended, csiAddress, timeout)
	if err != nil {
		return err
	}
	socket := filepath.Join(folder, driver+"-reg.sock")
	// A killed instance leaves its socket behind.
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove the old registration socket: %w", err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("cannot listen for kubelet: %w", err)
	}
	defer os.Remove(socket)
	failed := make(chan error, 3)
	server := grpc.NewServer()
	registration.RegisterRegistrationServer(server, &registrar{driver: driver, endpoint: endpoint, refused: failed})
	go func() { failed <- server.Serve(listener) }()
	if health != "" {
		go func() { failed <- http.ListenAndServe(health, healthz(socket)) }()
	}
	select {
	case err := <-failed:
		return err
	case <-ended.Done():
		server.GracefulStop()
		return nil
	}
}

// healthz reports whether kubelet can still find this program: another registrar that exits may remove the
// socket.
func healthz(socket string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(answer http.ResponseWriter, _ *http.Request) {
		if _, err := os.Stat(socket); err != nil {
			http.Error(answer, err.Error(), http.StatusInternalServerError)
		}
	})
	return mux
}

// driverName asks the driver, which may start later than this program, for its name.
func driverName(ended context.Context, address string, timeout time.Duration) (string, error) {
	for {
		name, err := askName(ended, address, timeout)
		if err == nil {
			return name, nil
		}
		if ended.Err() != nil {
			return "", fmt.Errorf("stopped before the driver at %s answered: %w", address, err)
		}
		log.Printf("the driver at %s does not answer yet: %v", address, err)
		time.Sleep(time.Second)
	}
}

// askName asks once, over a new connection: a failed connection would wait longer and longer before each
// retry.
func askName(ended context.Context, address string, timeout time.Duration) (string, error) {
	connection, err := grpc.NewClient("unix:"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer connection.Close()
	call, cancel := context.WithTimeout(ended, timeout)
	defer cancel()
	info, err := csi.NewIdentityClient(connection).GetPluginInfo(call, &csi.GetPluginInfoRequest{})
	return info.GetName(), err
}
