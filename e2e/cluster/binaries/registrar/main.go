// Registers a CSI driver with kubelet: our stand-in, in tests alone, for Kubernetes' node-driver-registrar.
//
// The real one cannot be required at a released version: its tags are v2 and its module path is not. This program takes
// the flags that our chart gives the real one, and speaks the same two protocols through the same libraries.
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

// GetInfo tells kubelet which driver this is and where its CSI socket lies on the host.
func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type:              registration.CSIPlugin,
		Name:              r.driver,
		Endpoint:          r.endpoint,
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

// NotifyRegistrationStatus takes kubelet's verdict. After a refusal this program ends, so that its restart tries again.
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

// run registers the driver, and goes on until it is told to end, or until kubelet refuses the driver.
func run(csiAddress, endpoint, folder, health string, timeout time.Duration) error {
	if endpoint == "" {
		return errors.New("--kubelet-registration-path is missing")
	}
	// Before any socket appears: an end that comes early must not leave one behind.
	ended, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	driver, err := driverName(ended, csiAddress, timeout)
	if err != nil {
		return err
	}
	socket := filepath.Join(folder, driver+"-reg.sock")
	// One that was killed leaves its socket behind.
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

// healthz says whether kubelet can still find us: another registrar that goes may remove the socket.
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
			return "", fmt.Errorf("told to end before the driver at %s answered: %w", address, err)
		}
		log.Printf("the driver at %s does not answer yet: %v", address, err)
		time.Sleep(time.Second)
	}
}

// askName asks once, over a connection of its own: one that failed would wait longer and longer before it tries again.
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
