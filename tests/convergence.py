import sys, math, torch, s4s, time
from problems import *
torch.set_num_threads(1)
def equal(N,first,last,var):
    u=torch.linspace(0,1,N+1,dtype=torch.float64)
    return (first*(last/first)**u) if var=='lam' else first+(last-first)*u
def graded(N,first,last,var):
    u=torch.linspace(0,1,N+1,dtype=torch.float64); u=u*u*(3-2*u)
    g=(first*(last/first)**u) if var=='lam' else first+(last-first)*u
    g[0]=first;g[-1]=last
    return g
first,last=float(sys.argv[1]),float(sys.argv[2])
x0=torch.tensor([0.35,-0.8,1.3],dtype=torch.float64)*first
cases=[('ddim',{}),('heun',{})]+[('ipndm',dict(order=k)) for k in (1,2,3,4)]+[('deis',dict(order=k,variant=v)) for v in ('rhoab','tab') for k in (1,2,3,4)]
cases+=[('dpmpp',dict(order=k,prediction=p,lower_order_final=l)) for p in ('x0','eps') for k in (1,2,3) for l in (True,False)]+[('dpmpp',dict(order=2,variant='taylor')),('dpmpp',dict(order=2,singlestep=True)),('dpmpp',dict(order=2,singlestep=True,variant='taylor')),('dpmpp',dict(order=3,singlestep=True)),('dpmpp',dict(order=3,singlestep=True,prediction='eps'))]
cases+=[('unipc',dict(order=k,variant=b,prediction=p,lower_order_final=l)) for p in ('x0','eps') for b in ('bh1','bh2') for k in (1,2,3) for l in (True,False)]
Ns=[32,64,128,256]
for n,o in cases:
    out=[]
    t=time.time()
    for var in ('lam','sigma'):
      for g in (equal,graded):
        E=[]
        for N in Ns:
            grid=g(N,first,last,var)
            sol=s4s.solver(n,grid,**o)
            e=[]
            for p in (Gaussian(),TwoPoints()):
                e.append((s4s.sample(sol,p.denoise,x0,check=False)-p.exact(x0,grid[0],grid[-1])).abs().max().item())
            E.append(e)
        for i in range(2): out.append(' '.join('%.2f'%math.log2(E[k][i]/E[k+1][i]) for k in range(len(Ns)-1))+' (%.0e)'%E[-1][i])
    print('%-24s'%sol.name,' | '.join(out),'%.1fs'%(time.time()-t),flush=True)
